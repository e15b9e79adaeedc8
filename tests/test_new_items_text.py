"""Who recommends items that nobody had in training? A tenth of the catalogue is taken out: texts and graphs find it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lmrs import systems
from lmrs.cli import run
from lmrs.dataset import Dataset
from lmrs.evaluate import evaluate
from lmrs.fit import Execution, fit
from lmrs.judge import judge
from lmrs.language import tiny as tiny_models
from lmrs.models.prompted import PromptedNetwork
from lmrs.new_items import without_items
from lmrs.split import Split, leave_one_out
from lmrs.system import System
from lmrs.vocab import Attributes, Vocab

CPU = Execution(device="cpu")
KINDS = ("drama", "comedy", "horror", "western")
EACH = 10
LENGTH = 6


@cache
def films(*, users: int, seed: int) -> Dataset:
    """Users stay with one kind of film; title and genre say of which kind it is, ids do not."""
    rng = np.random.default_rng(seed)
    kind = np.arange(len(KINDS) * EACH) % len(KINDS)
    own = np.arange(users) % len(KINDS)
    item = np.concatenate([rng.choice(np.flatnonzero(kind == k), LENGTH, replace=False) for k in own]).astype(np.int32)
    ids = [f"i{i}" for i in range(len(kind))]
    genres = Attributes.from_lists(pa.array([[KINDS[k]] for k in kind]))
    return Dataset(
        "films",
        Vocab(
            pa.array(ids, pa.large_string()), pa.array([f"u{u}" for u in range(users)], pa.large_string()), {"genres": genres}
        ),
        item,
        np.arange(users + 1, dtype=np.int64) * LENGTH,
        time=np.arange(users * LENGTH, dtype=np.int64) * 86_400_000_000,
        items=pa.table({"item_id": ids, "title": [f"{KINDS[k]} {KINDS[k]}" for k in kind]}),
    )  # fmt: skip


@cache
def asked() -> Split:
    """A tenth of the films is in no training history; the test asks for one of them after films of its kind."""
    return without_items(films(users=160, seed=0), share=0.1, seed=0)


def above(system: System) -> float:
    """Mean share of the other films that stand above the true one: .5 by chance."""
    fitted = fit(system, asked(), seed=0, execution=CPU)
    judged = judge(fitted.scorer, fitted.objective, system.task, asked().test, fitted.vocab, k=1, seed=0)
    assert len(judged.ranks.rank) > 8
    return float(np.mean((judged.ranks.rank - 1) / (films(users=160, seed=0).n_items - 1)))


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small causal model that was taught, by other people's histories, that like titles follow each other."""
    system = systems.language(
        strategy="fixed-prompt model tuning", backbone="tiny-causal", prompt="{list history} and", max_len=3, lr=3e-3, epochs=4,
        batch_size=16, measure="NDCG@10/3neg",
    )  # fmt: skip
    fitted = fit(system, leave_one_out(films(users=120, seed=9)), seed=0, execution=CPU)
    assert isinstance(fitted.scorer, PromptedNetwork)
    folder = tmp_path_factory.mktemp("reader")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the transformers package, about its own files
        fitted.scorer._language().save_pretrained(folder)
        tiny_models.tokenizer("causal").save_pretrained(folder)
    return str(folder)


def test_nobody_had_the_items_that_are_asked_for() -> None:
    counts, test = asked().train.counts(), asked().test
    wanted = {int(test.truth(query)[0]) for query in range(len(test))}
    assert not counts[sorted(wanted)].any()
    assert (counts == 0).sum() == 4


SHORT = {"prompt": "{list history} and", "max_len": 3}
TAUGHT: dict[str, Callable[[str], System]] = {
    "zero-shot": lambda reader: systems.zero_shot(backbone=reader, **SHORT),
    "lmrec": lambda reader: systems.lmrec(backbone=reader, **SHORT),
    "tallrec": lambda reader: systems.tallrec(
        backbone=reader, prompt="{list history} and {candidate}", max_len=3, lr=0.01, epochs=2, measure="NDCG@10/3neg"
    ),
    "learned vectors": lambda reader: systems.language(
        strategy="fixed-model prompt tuning", backbone=reader, soft="{list history} [soft a 2]", max_len=3, lr=0.01, epochs=1,
        measure="NDCG@10/3neg",
    ),
    "unisrec": lambda _: systems.unisrec(
        backbone="tiny-encoder", experts=2, dim=16, layers=1, max_len=6, dropout=0.1, pretrain=False, epochs=5, batch_size=32,
        lr=0.01,
    ),
    "plm-rec": lambda _: systems.plm_rec(
        dim=16, layers=1, heads=2, max_len=3, transe_epochs=5, per_user=6, beams=100, epochs=4, decoding="constrained",
        users=False,
    ),
    "walks": lambda _: systems.walks(max_len=5),
}  # fmt: skip


@pytest.mark.parametrize("name", TAUGHT)
def test_texts_and_graphs_recommend_what_nobody_had(name: str, reader: str) -> None:
    system = TAUGHT[name](reader)
    assert system.model.knows_new
    assert above(system) < 0.25


def test_a_model_that_was_taught_nothing_ranks_them_by_chance() -> None:
    """So what the others know of the films, they know from what the language model was taught."""
    assert 0.35 < above(systems.zero_shot(backbone="tiny-causal", **SHORT)) < 0.65


SEQUENCE = {"dim": 16, "layers": 1, "max_len": 6, "epochs": 3, "every": 3}
BLIND: dict[str, System] = {
    "sasrec": systems.sasrec(**SEQUENCE),
    "gru4rec": systems.gru4rec(dim=16, max_len=6, epochs=2, every=2),
    "item-knn": systems.item_knn(),
    "popularity": systems.popularity(),
}


@pytest.mark.parametrize("name", BLIND)
def test_ids_do_not_and_the_report_says_so(name: str) -> None:
    system = BLIND[name]
    assert above(system) > 0.4
    found = evaluate(fit(system, asked(), seed=0, execution=CPU), asked(), measures=["NDCG@10"])
    assert found.facts["new_targets_blind"] == len(asked().test)


@pytest.mark.parametrize(
    ("system", "knows"),
    [
        (systems.language(strategy="fine-tune extra part", backbone="tiny-causal"), False),  # a table of items on top
        (systems.language(strategy="fine-tune whole", backbone="tiny-causal"), False),
        (systems.language(strategy="fixed-prompt model tuning", backbone="tiny-causal"), True),
        (systems.p5(), False),
        (systems.p5(index="title"), True),
        (systems.tiger(backbone="tiny-encoder"), True),
        (systems.prec(backbone="tiny-encoder"), True),
        (systems.plm_nr(backbone="tiny-encoder"), True),
        (systems.prompt4nr(backbone="tiny-encoder"), True),
        (systems.ppr(), False),
        (systems.prl(), False),
        (systems.kbrd(), False),  # every film has a vector of its own beside its neighbours'
        (systems.unicrs(backbone="tiny-encoder"), False),
        (systems.ptm4tag(backbone="tiny-encoder"), False),  # a tag is a row of a table
    ],
)
def test_a_system_knows_whether_it_can(system: System, knows: bool) -> None:
    assert system.model.knows_new == knows


def test_the_command_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the end of a fit, and where somebody's history has an item that was not in the training data."""
    lines = ["user,item,time", *(f"u{u},i{(u + t) % 6},{100 * u + t}" for u in range(8) for t in range(4)), "u0,new,9"]
    (tmp_path / "interactions.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"{key},drama {key}\n" for key in (*"abc", "new")))
    data, out = ["--data", str(tmp_path)], str(tmp_path / "sas")
    small = [f"--set={each}" for each in ("dim=8", "layers=1", "max_len=4", "epochs=1")]
    assert run(["fit", "sasrec", *data, "--out", out, *small, "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "1 times an item without training events was to be found: this system knows nothing of them" in told
    assert run(["recommend", out, "--history", "i1,new"]) == 0
    assert "without training events, so sasrec knows nothing of it: new" in capsys.readouterr().err
    out = str(tmp_path / "zero")
    assert run(["fit", "zero-shot", *data, "--out", out, "--set", "backbone=tiny-causal", "--quiet"]) == 0
    assert "texts or a graph tell them" in capsys.readouterr().out
    assert run(["recommend", out, "--history", "i1,new"]) == 0
    assert "knows nothing" not in capsys.readouterr().err
