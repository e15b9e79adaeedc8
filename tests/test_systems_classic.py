"""GRU4Rec, Caser and the controls as systems: what they are made of, and that they learn what can be learned."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F

from lmrs.dataset import Dataset
from lmrs.errors import ContractError
from lmrs.fit import fit
from lmrs.judge import judge
from lmrs.losses import BCE, BPRMax, FullSoftmax, Output, SampledSoftmax
from lmrs.measures import NDCG
from lmrs.models import Caser, Recurrent
from lmrs.negatives import ByPopularity, Drawn, Uniform
from lmrs.objectives import NextItem, NextItems
from lmrs.split import Split, leave_one_out
from lmrs.system import Stage, System
from lmrs.systems import caser, ease, gru4rec, item_knn, markov, popularity, recent_popularity
from lmrs.vocab import Vocab

V = 30


def successors(*, users: int = 80, length: int = 9, seed: int = 0) -> Split:
    """Every item is followed by one of two fixed ones, with chances .85 and .15: a first-order chain."""
    rng = np.random.default_rng(seed)
    follow = np.stack([(np.arange(V) * 5 + 1) % V, (np.arange(V) + 3) % V], 1)
    item = np.empty((users, length), np.int32)
    item[:, 0] = rng.integers(0, V, users)
    for at in range(1, length):
        item[:, at] = follow[item[:, at - 1], (rng.random(users) < 0.15).astype(int)]
    vocab = Vocab(
        pa.array([f"i{i}" for i in range(V)], pa.large_string()), pa.array([f"u{u}" for u in range(users)], pa.large_string())
    )
    offsets = np.arange(users + 1, dtype=np.int64) * length
    return leave_one_out(Dataset("chain", vocab, item.reshape(-1), offsets))


def quality(system: System, split: Split) -> float:
    """Mean NDCG@1 (the share of first places) of the validation queries: histories keep repeats, so nothing is left out."""
    fitted = fit(system, split, seed=1)
    task = type(system.task)(system.task.view, exclude_seen=False)
    judged = judge(fitted.scorer, fitted.objective, task, split.valid, fitted.vocab, k=1, seed=0)
    return float(np.mean(NDCG(1)(judged.ranks)))


SHORT = {"dim": 16, "epochs": 30, "batch_size": 16, "lr": 0.02, "patience": None, "every": 30}
LONGER = {**SHORT, "epochs": 45, "every": 45}


@pytest.mark.parametrize(
    "system",
    [
        gru4rec(**SHORT),
        gru4rec(**SHORT, loss="sampled", negatives=8),
        gru4rec(**SHORT, loss="bpr-max", negatives=8),
        caser(**LONGER, window=3, targets=1, dropout=0.1),
        caser(**LONGER, window=3, targets=1, dropout=0.1, users=True),
    ],
    ids=["softmax", "sampled", "bpr-max", "caser", "caser with users"],
)
def test_deep_systems_learn_a_chain(system):
    split = successors()
    chance, ceiling = quality(popularity(), split), quality(markov(), split)
    assert chance < 0.2
    assert ceiling > 0.75
    assert quality(system, split) > 0.3 * chance + 0.7 * ceiling


def test_controls_stand_between_chance_and_the_chain():
    split = successors()
    found = {made.__name__: quality(made(), split) for made in (popularity, recent_popularity, markov, item_knn, ease)}
    assert max(found, key=lambda name: found[name]) == "markov"
    assert found["markov"] > 0.7


def stage_of(system: System) -> Stage:
    (stage,) = system.stages
    assert isinstance(stage, Stage)
    return stage


def test_gru4rec_is_made_of_what_it_says():
    system = gru4rec(dim=32, layers=2, dropout=0.1, embedding_dropout=0.3, tied=False, max_len=20)
    assert system.model == Recurrent(dim=32, layers=2, max_len=20, dropout=0.1, embedding_dropout=0.3, tied=False)
    assert stage_of(system).objective == NextItem(FullSoftmax())
    assert stage_of(gru4rec(loss="sampled", logq=False)).objective == NextItem(
        SampledSoftmax(ByPopularity(2048, alpha=0.5, shared=True), logq=False)
    )
    assert stage_of(gru4rec(loss="bpr-max", negatives=7, alpha=0.75, regularisation=2.0, elu=1.0)).objective == NextItem(
        BPRMax(ByPopularity(7, alpha=0.75, shared=True), regularisation=2.0, elu=1.0)
    )


def test_gru4rec_refuses_an_unknown_loss():
    with pytest.raises(ContractError, match="a loss among softmax, sampled, bpr-max, got 'bprmax'; did you mean bpr-max"):
        gru4rec(loss="bprmax")


def test_caser_is_made_of_what_it_says():
    system = caser(users=True, targets=2, negatives=4)
    assert system.model == Caser(dim=50, window=5, horizontal=16, vertical=4, dropout=0.5, users=True)
    assert stage_of(system).objective == NextItems(2, BCE(Uniform(4)))
    assert stage_of(caser()).objective == NextItems(3, BCE(Uniform(3)))


def test_bpr_max_passes_scores_through_elu():
    rng = torch.Generator().manual_seed(0)
    states, table = (torch.randn(n, 4, dtype=torch.float64, generator=rng) for n in (3, V))
    target, items = torch.tensor([0, 1, 2]), torch.tensor([5, 6, 1, 7])
    found = BPRMax(regularisation=0.3, elu=0.5).charge(states, Output(table, None), target, Drawn(items, None, 4, V))
    wanted = 0.0
    for m in range(3):
        scores = F.elu(states[m] @ table.T, 0.5)
        others = torch.stack([scores[j] for j in items.tolist() if j != target[m]])
        weight = others.exp() / others.exp().sum()
        wanted -= float((weight * (scores[target[m]] - others).sigmoid()).sum().log())
        wanted += 0.3 * float((weight * others.square()).sum())
    assert float(found) == pytest.approx(wanted, rel=1e-12)


def test_bpr_max_survives_negatives_that_all_equal_the_target():
    states, table = torch.randn(1, 4, generator=torch.Generator().manual_seed(0)), torch.ones(V, 4)
    found = BPRMax(regularisation=0.0).charge(
        states, Output(table, None), torch.tensor([5]), Drawn(torch.tensor([5, 5]), None, 2, V)
    )
    assert float(found) == pytest.approx(float(np.log(2)), rel=1e-6)
