"""Habits of a recommender: scorers whose habits are known by construction."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmrs import biases, models, objectives, views
from lmrs.cli import run
from lmrs.errors import DataError
from lmrs.language import Backbone
from lmrs.models.network import Scorer
from lmrs.prompts import MultiMask
from lmrs.tasks.ranking import scores
from lmrs.testing import tiny

VIEW = views.ItemSequence(max_len=6)


class Rule(Scorer):
    """Scores that follow a rule of the last or the first item that is read."""

    def __init__(self, vocab, rule) -> None:
        super().__init__()
        self.n_items, self.rule = vocab.n_items, rule

    def score(self, batch, visible):
        items = batch.channels["item"]
        last, first = items[batch.offsets[1:] - 1], items[batch.offsets[:-1]]
        return torch.stack([self.rule(int(a), int(b)) for a, b in zip(last, first)]).double()


def known():
    split = tiny.split(tiny.dataset(users=24, items=40))
    return split, replace(split.dataset.vocab, counts=split.train.counts(), catalogue=split.dataset.items)


def found(rule, **options):
    split, vocab = known()
    return biases.measure(Rule(vocab, rule), objectives.NextItem(), VIEW, split.valid, vocab, candidates=15, **options)


def mean(each: biases.Biases, name: str) -> float:
    return each.means()[name][0]


def test_a_scorer_by_popularity_shows_it_and_nothing_else() -> None:
    _, vocab = known()
    counts = torch.from_numpy(vocab.counts.astype(float))
    each = found(lambda last, first: counts)
    assert mean(each, "popularity") == pytest.approx(1)
    assert (mean(each, "order"), mean(each, "first")) == (pytest.approx(1), 1)
    assert mean(found(lambda last, first: -counts), "popularity") == pytest.approx(-1)


def test_a_scorer_by_length_shows_it() -> None:
    split, vocab = known()
    titles = ["word " * (1 + item % 7) for item in range(vocab.n_items)]
    table = split.dataset.items.drop_columns("title").append_column("title", [titles])
    vocab = replace(vocab, catalogue=table)
    short = torch.tensor([-float(len(title)) for title in titles])
    each = biases.measure(Rule(vocab, lambda a, b: short), objectives.NextItem(), VIEW, split.valid, vocab, candidates=15)
    assert each.unit == "words"
    assert mean(each, "length") == pytest.approx(-1)
    assert abs(mean(each, "popularity")) < 0.4


def test_a_scorer_that_reads_the_last_item_alone_depends_on_order() -> None:
    _, vocab = known()

    def rule(last: int, first: int) -> torch.Tensor:
        return torch.rand(vocab.n_items, generator=torch.Generator().manual_seed(last))

    each = found(rule)
    assert mean(each, "order") < 0.8
    assert mean(each, "first") < 0.9
    length = known()[0].valid
    alone = np.flatnonzero(length.stop - length.start == 1)
    assert np.allclose(each.values["order"][alone], 1)  # one event has one order


def test_equal_scores_have_no_correlation() -> None:
    _, vocab = known()
    each = found(lambda last, first: torch.zeros(vocab.n_items))
    assert np.isnan(each.values["popularity"]).all()
    assert "popularity" not in each.means()
    assert "first" in str(each)


@pytest.mark.parametrize(
    "model",
    [
        models.Prompted(Backbone("tiny-causal"), "{list history}. Next:", max_len=6),
        models.Prompted(Backbone("tiny-encoder"), "{list history}. [mask 9].", read="masks", masks=MultiMask(9), max_len=6),
    ],
    ids=["causal", "encoder"],
)
def test_prompted_networks_tell_their_prior(model: models.Prompted) -> None:
    """By hand, for all items that a user has not met."""
    split, vocab = known()
    queries = split.valid.take(np.arange(4, 6))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = model.build(vocab)
    each = biases.measure(network, objectives.Continuation(), VIEW, queries, vocab, candidates=60)
    assert each.unit == "tokens"
    blank = network.blank(np.arange(vocab.n_items))
    rows = views.Rows(queries.dataset, queries.user, queries.start, queries.stop)
    plain = scores(network, objectives.Continuation(), VIEW, rows, vocab)[0].double().numpy()
    for query in range(2):
        free = np.setdiff1d(np.arange(vocab.n_items), [*queries.history(query), *queries.truth(query)])
        wanted = biases.rank_correlation(plain[query, free], blank[free])
        assert each.values["prior"][query] == pytest.approx(wanted, abs=0.02)
        assert np.isfinite(each.values["popularity"][query])


def test_where_items_have_no_score_without_history_none_is_told() -> None:
    split, vocab = known()
    state = models.Prompted(Backbone("tiny-causal"), read="state", max_len=6).build(vocab)
    found = biases.measure(state, objectives.NextItem(), VIEW, split.valid.take(np.arange(4, 6)), vocab, candidates=9)
    assert "prior" not in found.values


def test_the_truth_and_the_history_are_no_candidates() -> None:
    """Otherwise a good recommender would seem to like popular items."""
    split, vocab = known()
    seen: list[np.ndarray] = []

    class Watch(Rule):
        def score_among(self, batch, visible, candidates):
            seen.append(candidates.numpy())
            return super().score_among(batch, visible, candidates)

    biases.measure(
        Watch(vocab, lambda a, b: torch.zeros(vocab.n_items)), objectives.NextItem(), VIEW, split.valid, vocab, candidates=15
    )
    some = split.valid.take(np.flatnonzero(split.valid.stop > split.valid.start))
    order = np.argsort(-np.minimum(some.stop - some.start, VIEW.max_len), kind="stable")
    for query, row in zip(order, seen[0], strict=True):
        assert not set(row.tolist()) & {*some.history(query).tolist(), *some.truth(query).tolist()}
        assert len(set(row.tolist())) == 15


def test_without_a_history_there_is_nothing_to_measure() -> None:
    split, vocab = known()
    empty = split.valid.take(np.zeros(0, np.int64))
    with pytest.raises(DataError, match="a query with a history"):
        biases.measure(Rule(vocab, lambda a, b: torch.zeros(vocab.n_items)), objectives.NextItem(), VIEW, empty, vocab)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=12), st.data())
def test_rank_correlation_is_pearson_of_mean_ranks(a: list[int], data) -> None:
    b = data.draw(st.lists(st.integers(0, 5), min_size=len(a), max_size=len(a)))
    rho = biases.rank_correlation(np.array(a, float), np.array(b, float))

    def ranks(values: list[int]) -> list[float]:
        return [sum(y < x for y in values) + (sum(y == x for y in values) + 1) / 2 for x in values]

    if len(set(a)) == 1 or len(set(b)) == 1:
        assert np.isnan(rho)
    else:
        assert rho == pytest.approx(np.corrcoef(ranks(a), ranks(b))[0, 1], abs=1e-9)
        assert biases.rank_correlation(-np.array(a, float), np.array(b, float)) == pytest.approx(-rho)


def test_the_command_tells_the_biases_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "run")
    assert run(["fit", "popularity", "--data", "synthetic:users=40,items=30", "--out", out, "--quiet"]) == 0
    capsys.readouterr()
    assert run(["biases", out, "--queries", "20", "--candidates", "9"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("20 queries, 9 drawn items each; titles in words")
    assert "popularity +1.000 [+1.000, +1.000]  rank correlation of the score with the training events" in told
    assert run(["biases", out, "--json", "--queries", "5"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["queries"], found["biases"]["first"]["mean"]) == (5, 1.0)
    assert run(["biases", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
