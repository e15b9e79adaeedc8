"""Asking for the next item: the same question in evaluation and in serving."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lmrs import models, objectives, tasks, views
from lmrs.errors import ContractError
from lmrs.models import ControlScorer
from lmrs.tasks import ranking
from lmrs.testing import tiny
from lmrs.views import Rows
from lmrs.visibility import Causal, Full

VIEW = views.ItemSequence(max_len=6)


class Echo(ControlScorer):
    """100 for the item at the asked position, plus the number of positions it was shown. Remembers what it was asked."""

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.n_items, self.asked = n_items, []

    def estimate(self, train) -> None: ...

    def score(self, batch, visible):
        self.asked.append((batch, visible))
        last = batch.channels["item"][batch.channels["asked"]]
        known = batch.lengths[batch.lengths > 0]
        return 100.0 * torch.nn.functional.one_hot(last.clamp(max=self.n_items - 1), self.n_items) + known[:, None]


def histories(*lengths: int) -> Rows:
    """One row a length: the first events of a long user."""
    train = tiny.split().train
    user = np.flatnonzero(train.lengths >= max(lengths))[:1].repeat(len(lengths))
    return Rows(train.dataset, user, train.start[user], train.start[user] + np.array(lengths))


def vocab():
    return tiny.vocab(tiny.split().train)


def test_scores_come_in_the_order_of_the_histories() -> None:
    rows = histories(2, 5, 1, 3, 4)
    found, empty = ranking.scores(Echo(13), None, VIEW, rows, vocab())
    assert empty == 0
    last = rows.dataset.item[rows.stop - 1]
    assert found.argmax(1).tolist() == last.tolist()
    assert found.min(1).values.tolist() == [2, 5, 1, 3, 4]


def test_histories_without_events_get_training_popularity_and_are_counted() -> None:
    known = vocab()
    found, empty = ranking.scores(Echo(13), None, VIEW, histories(0, 3, 0, 5), known)
    assert empty == 2
    assert known.counts is not None
    for row in (0, 2):
        assert found[row].tolist() == known.counts.tolist()
    assert found.min(1).values[[1, 3]].tolist() == [3, 5]


def test_only_empty_histories_are_no_special_case() -> None:
    network = models.Transformer(dim=8, heads=2, max_len=6).build(vocab())
    for scorer, objective in ((Echo(13), None), (network, objectives.NextItem()), (network, objectives.Cloze())):
        found, empty = ranking.scores(scorer, objective, VIEW, histories(0, 0), vocab())
        assert empty == 2
        assert found.tolist() == [vocab().counts.tolist()] * 2


def test_without_counts_a_stranger_gets_zeros() -> None:
    found, _ = ranking.scores(Echo(13), None, VIEW, histories(0), replace(vocab(), counts=None))
    assert found.tolist() == [[0.0] * 13]


def test_long_histories_lose_their_oldest_events_and_leave_room_for_the_mask() -> None:
    rows = histories(8)
    newest = rows.dataset.item[rows.stop[0] - 6 : rows.stop[0]].tolist()
    echo = Echo(13)
    ranking.scores(echo, None, VIEW, rows, vocab())
    assert echo.asked[0][0].channels["item"].tolist() == newest
    ranking.scores(echo, objectives.Cloze(), VIEW, rows, vocab())
    assert echo.asked[1][0].channels["item"].tolist() == [*newest[1:], vocab().mask]


def test_the_objective_says_under_which_visibility_it_asks() -> None:
    echo = Echo(13)
    for objective in (None, objectives.NextItem(), objectives.Cloze()):
        ranking.scores(echo, objective, VIEW, histories(3), vocab())
    assert [type(visible) for _, visible in echo.asked] == [Causal, Causal, Full]


def test_scores_are_fp32_on_the_cpu() -> None:
    network = models.Transformer(dim=8, heads=2, max_len=6).build(vocab()).double()
    found, _ = ranking.scores(network, objectives.NextItem(), VIEW, histories(3, 2), vocab())
    assert found.dtype == torch.float32
    assert found.device.type == "cpu"


def test_an_objective_that_cannot_ask_is_refused_with_what_to_do() -> None:
    with pytest.raises(ContractError, match=r"can be asked .* last stage, got Mutual; add a stage with NextItem or Cloze"):
        ranking.scores(Echo(13), objectives.Mutual(attributes="genres"), VIEW, histories(3), vocab())


def test_no_gradient_is_kept() -> None:
    network = models.Transformer(dim=8, heads=2, max_len=6).build(vocab())
    found, _ = ranking.scores(network, objectives.NextItem(), VIEW, histories(3), vocab())
    assert not found.requires_grad


@pytest.mark.parametrize("cells", [16_000_000, 13 * 4, 1])
def test_questions_come_in_blocks_of_bounded_size_and_every_query_once(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "SCORE_CELLS", cells)
    queries = tiny.split().valid
    task = tasks.Ranking(VIEW)
    blocks = list(ranking.questions(Echo(13), None, task, queries, vocab()))
    which = np.concatenate([block.which for block in blocks])
    assert sorted(which.tolist()) == list(range(len(queries)))
    assert max(len(block.which) for block in blocks) <= max(1, cells // 13)
    length = (queries.stop - queries.start)[which]
    assert (np.diff(length) <= 0).all(), "queries of similar length are asked together"
    for block in blocks:
        assert block.scores.argmax(1).tolist() == [int(queries.history(at)[-1]) for at in block.which]


def test_a_block_never_holds_more_queries_than_a_kernel_likes() -> None:
    queries = tiny.split().valid
    many = queries.take(np.arange(1000) % len(queries))
    sizes = [len(block.which) for block in ranking.questions(Echo(13), None, tasks.Ranking(VIEW), many, vocab())]
    assert sum(sizes) == 1000
    assert max(sizes) <= 256


def test_the_target_is_not_part_of_the_question() -> None:
    data = tiny.dataset()
    queries = tiny.split(data).valid
    item = data.item.copy()
    item[queries.stop] = (item[queries.stop] + 1) % data.n_items
    other = replace(queries, dataset=replace(data, item=item))
    for one, two in zip(*(ranking.questions(Echo(13), None, tasks.Ranking(VIEW), each, vocab()) for each in (queries, other))):
        assert torch.equal(one.scores, two.scores)
