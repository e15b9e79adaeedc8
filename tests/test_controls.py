"""Popularity, Markov, item-kNN and EASE against dense, slow and obvious versions of their equations."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs.batch import Batch, from_rows
from lmrs.dataset import Dataset
from lmrs.errors import CheckpointError, ContractError
from lmrs.models import EASE, ItemKNN, Markov, Popularity, RecentPopularity, counting, neighbours
from lmrs.split import Train
from lmrs.visibility import Causal
from lmrs.vocab import Vocab

V = 10
DAY = 86_400_000_000
HISTORIES = [
    [0, 1, 2, 3, 4],
    [0, 1, 3, 5],
    [2, 1, 0, 1],  # an item chosen twice
    [6, 1, 3, 2, 0, 5],
    [4, 4, 6],
    [7],
    [8, 0, 1, 2],
    [3, 5, 8],
]
HELD_BACK = [9, 9]  # at the end of every history: no training event


def train_of(
    histories: list[list[int]], *, n_items: int = V, time: list[int] | None = None, held: list[int] | None = None
) -> Train:
    """A training part of the histories, with `held` behind every one of them."""
    held = HELD_BACK if held is None else held
    item = np.array([i for h in histories for i in h + held], np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(h) + len(held) for h in histories])])
    vocab = Vocab(pa.array([f"i{i}" for i in range(n_items)], pa.large_string()))
    data = Dataset("small", vocab, item, offsets, time=None if time is None else np.array(time, np.int64))
    return Train(data, offsets[1:] - len(held))


def asked(rows: list[list[int]], *, at: list[int] | None = None) -> Batch:
    """Rows with one asked position each: the last, or places counted from the end in the order of the batch (0 the last)."""
    batch = from_rows(
        {"item": torch.tensor([i for row in rows for i in row], dtype=torch.int64)}, torch.tensor([len(row) for row in rows])
    )
    marks = torch.zeros(batch.n_positions, dtype=torch.bool)
    marks[batch.last - torch.tensor(at or [0] * len(rows))] = True
    return batch.with_channels(asked=marks)


def dense(histories: list[list[int]]) -> np.ndarray:
    counts = np.zeros((len(histories), V))
    for user, history in enumerate(histories):
        for item in history:
            counts[user, item] += 1
    return counts


ROWS = [[0, 1, 2, 4], [1, 3, 3], [5, 8], [6], [9]]  # longest first: the order of the batch too


def scored(control, train: Train, rows: list[list[int]] = ROWS) -> np.ndarray:
    scorer = control.build(train.dataset.vocab)
    scorer.estimate(train)
    return scorer.score(asked(rows), Causal()).numpy()


# -- popularity ----------------------------------------------------------------------------------------------------------


def test_popularity_counts_training_events_alone():
    found = scored(Popularity(), train_of(HISTORIES))
    wanted = dense(HISTORIES).sum(0)
    assert wanted[9] == 0  # sixteen events of item 9 are held back
    assert np.array_equal(found, np.tile(wanted, (len(ROWS), 1)))


def test_popularity_scores_may_be_written_to():
    scorer = Popularity().build(train_of(HISTORIES).dataset.vocab)
    scorer.estimate(train_of(HISTORIES))
    scorer.score(asked(ROWS), Causal())[0, :] = -1.0
    assert scorer.score(asked(ROWS), Causal()).min() >= 0


@pytest.mark.parametrize("epoch", [0, 18_000, -4_000])
def test_recent_popularity_counts_the_days_before_the_newest_training_event(epoch):
    histories = [[0, 1, 2], [1, 2, 3], [0, 0, 4]]
    # Days of the events; the two last of each user are held back, later than everything else, and must not move the window.
    days = [0, 5, 10, 90, 91, 1, 8, 9, 90, 91, 2, 3, 7, 90, 91]
    train = train_of(histories, time=[(epoch + day) * DAY for day in days])
    found = scored(RecentPopularity(days=3), train)[0]
    # Newest training event: day 10. Later than day 7: 2 (day 10), 2 (day 8), 3 (day 9). Item 4, on day 7 itself, is out.
    every = np.array([3, 2, 2, 1, 1, 0, 0, 0, 0, 0])
    recent = np.array([0, 0, 2, 1, 0, 0, 0, 0, 0, 0])
    assert np.allclose(found, recent + every / (every.sum() + 1), rtol=1e-12)


def test_recent_popularity_without_time_takes_the_newest_share_of_every_user():
    found = scored(RecentPopularity(share=0.3), train_of(HISTORIES))[0]
    recent = np.zeros(V)
    for history in HISTORIES:
        for item in history[-math.ceil(0.3 * len(history)) :]:
            recent[item] += 1
    every = dense(HISTORIES).sum(0)
    assert np.allclose(found, recent + every / (every.sum() + 1), rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, V - 1), min_size=1, max_size=8), min_size=1, max_size=6), st.floats(0.01, 1))
def test_the_whole_past_never_overturns_the_window(histories, share):
    found = scored(RecentPopularity(share=share), train_of(histories))[0]
    recent = np.zeros(V)
    for history in histories:
        for item in history[-math.ceil(share * len(history)) :]:
            recent[item] += 1
    assert np.array_equal(np.floor(found), recent)


@pytest.mark.parametrize(
    ("options", "text"), [({"days": 0}, "days above 0, got days=0"), ({"share": 1.5}, r"share in \(0, 1\], got share=1.5")]
)
def test_recent_popularity_refuses(options, text):
    with pytest.raises(ContractError, match=text):
        RecentPopularity(**options)


# -- Markov --------------------------------------------------------------------------------------------------------------


def chain(histories: list[list[int]], smoothing: float) -> np.ndarray:
    """P(j | i) by counting in loops."""
    pairs, popular = np.zeros((V, V)), np.zeros(V)
    for history in histories:
        for item in history:
            popular[item] += 1
        for before, after in pairwise(history):
            pairs[before, after] += 1
    popular /= popular.sum()
    out = np.zeros((V, V))
    for i in range(V):
        total = pairs[i].sum() + smoothing
        out[i] = popular if total == 0 else (pairs[i] + smoothing * popular) / total
    return out


@pytest.mark.parametrize("smoothing", [0.0, 0.5, 20.0])
def test_markov_is_the_equation(smoothing):
    found = scored(Markov(smoothing=smoothing), train_of(HISTORIES))
    wanted = chain(HISTORIES, smoothing)[[row[-1] for row in ROWS]]
    assert np.allclose(found, wanted, atol=1e-6)
    assert np.allclose(found.sum(1), 1, atol=1e-6)
    assert wanted[0].max() > wanted[0].min()


def test_markov_goes_by_the_asked_event_not_by_the_last():
    train = train_of(HISTORIES)
    scorer = Markov().build(train.dataset.vocab)
    scorer.estimate(train)
    found = scorer.score(asked([[5, 0, 1], [8, 2]], at=[1, 1]), Causal())
    assert torch.equal(found, scorer.score(asked([[0], [8]]), Causal()))


def test_markov_reaches_the_ceiling_of_a_chain_that_it_is():
    """On long histories of a known chain the counted transitions are the true ones."""
    rng = np.random.default_rng(0)
    true = rng.dirichlet(np.full(V, 0.3), V)
    histories = []
    for _ in range(40):
        history = [int(rng.integers(V))]
        for _ in range(400):
            history.append(int(rng.choice(V, p=true[history[-1]])))
        histories.append(history)
    found = scored(Markov(), train_of(histories), [[item] for item in range(V)])
    assert np.abs(found - true).max() < 0.05


def test_markov_refuses():
    with pytest.raises(ContractError, match="smoothing of at least 0, got smoothing=-1"):
        Markov(smoothing=-1)


# -- item-kNN ------------------------------------------------------------------------------------------------------------


def similarities(histories: list[list[int]], weights: str, *, k: int, shrink: float, k1: float, b: float) -> np.ndarray:
    counts = dense(histories)
    users = len(histories)
    weighed = np.zeros((users, V))
    for u in range(users):
        for i in range(V):
            if not counts[u, i]:
                continue
            if weights == "cosine":
                weighed[u, i] = counts[u, i] / math.sqrt((counts[:, i] ** 2).sum())
            else:
                idf = math.log(V) - math.log(1 + (counts[u] > 0).sum())
                long = counts[:, i].sum() / counts.sum(0).mean()
                weighed[u, i] = idf * counts[u, i] * (k1 + 1) / (counts[u, i] + k1 * (1 - b + b * long))
    out = np.zeros((V, V))
    for i in range(V):
        line = np.array([weighed[:, i] @ weighed[:, j] for j in range(V)])
        together = np.array([((counts[:, i] > 0) & (counts[:, j] > 0)).sum() for j in range(V)])
        line = np.array([s * n / (n + shrink) if n else 0.0 for s, n in zip(line, together, strict=True)])
        best = sorted(range(V), key=lambda j: (-round(line[j], 12), j))[:k]
        out[i, best] = line[best]
    return out


@pytest.mark.parametrize("weights", ["cosine", "bm25"])
@pytest.mark.parametrize(("k", "shrink"), [(100, 0.0), (3, 0.0), (4, 2.5)])
def test_item_knn_is_the_equation(weights, k, shrink):
    model = ItemKNN(weights=weights, k=k, shrink=shrink, recency=0.8, k1=1.7, b=0.6)
    near = similarities(HISTORIES, weights, k=k, shrink=shrink, k1=1.7, b=0.6)
    wanted = np.array([sum(near[item] * 0.8 ** (len(row) - 1 - at) for at, item in enumerate(row)) for row in ROWS])
    assert np.allclose(scored(model, train_of(HISTORIES)), wanted, atol=1e-5)
    assert (wanted[:4].max(1) > 0).all()
    assert (wanted[4] == 0).all()  # item 9 has no training event: no neighbours, and no error


def test_item_knn_in_small_blocks_is_the_same(monkeypatch):
    whole = scored(ItemKNN(k=3, shrink=1.0), train_of(HISTORIES))
    monkeypatch.setattr(neighbours, "CELLS", 3 * V)
    assert np.array_equal(scored(ItemKNN(k=3, shrink=1.0), train_of(HISTORIES)), whole)


def test_equal_similarities_keep_the_lower_item_numbers():
    scorer = ItemKNN(weights="cosine", k=2).build(train_of(HISTORIES).dataset.vocab)
    scorer.estimate(train_of([[3, 7, 5, 1]]))
    assert scorer.columns.view(4, 2).tolist() == [[1, 3]] * 4


def test_item_knn_does_not_read_behind_the_asked_event():
    train = train_of(HISTORIES)
    scorer = ItemKNN(recency=0.5).build(train.dataset.vocab)
    scorer.estimate(train)
    found = scorer.score(asked([[0, 1, 2, 4], [1, 3, 5]], at=[2, 1]), Causal())
    assert torch.equal(found, scorer.score(asked([[0, 1], [1, 3]]), Causal()))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"weights": "cosin"}, "weights 'cosine' or 'bm25', got 'cosin'; did you mean cosine"),
        ({"k": 0}, "k of at least 1, got k=0"),
        ({"shrink": -1}, "shrink of at least 0, got shrink=-1"),
        ({"recency": 0}, r"recency in \(0, 1\], got recency=0"),
        ({"b": 2}, r"b in \[0, 1\], got b=2"),
        ({"k1": float("nan")}, "k1 of at least 0, got k1=nan"),
    ],
)
def test_item_knn_refuses(options, text):
    with pytest.raises(ContractError, match=text):
        ItemKNN(**options)


# -- EASE ----------------------------------------------------------------------------------------------------------------


def test_ease_is_the_closed_form():
    """Column j of B solves the ridge regression of item j on the other items, one at a time."""
    train = train_of(HISTORIES)
    scorer = EASE(regularisation=0.7).build(train.dataset.vocab)
    scorer.estimate(train)
    chosen = (dense(HISTORIES) > 0).astype(float)
    wanted = np.zeros((V, V))
    for j in range(V):
        others = [i for i in range(V) if i != j]
        x = chosen[:, others]
        wanted[others, j] = np.linalg.solve(x.T @ x + 0.7 * np.eye(V - 1), x.T @ chosen[:, j])
    assert np.allclose(scorer.weights.numpy(), wanted, atol=1e-6)
    assert np.array_equal(np.diag(scorer.weights.numpy()), np.zeros(V))
    # A repeated item of the history counts once.
    profile = np.array([np.isin(np.arange(V), row) for row in ROWS]).astype(float)
    assert np.allclose(scorer.score(asked(ROWS), Causal()).numpy(), profile @ wanted, atol=1e-6)


def test_ease_in_narrow_strips_is_the_same(monkeypatch):
    """The lower triangle is read from the upper one, in the corner of a strip and below it."""
    from lmrs.models import ease

    whole = EASE(regularisation=2.0).build(train_of(HISTORIES).dataset.vocab)
    whole.estimate(train_of(HISTORIES))
    monkeypatch.setattr(ease, "STRIP", 3)
    strips = EASE(regularisation=2.0).build(train_of(HISTORIES).dataset.vocab)
    strips.estimate(train_of(HISTORIES))
    assert np.allclose(whole.weights.numpy(), strips.weights.numpy(), atol=1e-7)


def test_ease_refuses_a_catalogue_that_does_not_fit():
    vocab = Vocab(pa.array([str(i) for i in range(2000)], pa.large_string()))
    EASE(memory_gib=0.045).build(vocab)  # 12 bytes x 2000^2 = 0.0447 GiB
    with pytest.raises(
        ContractError, match=r"at most 0\.044 GiB .* got 2,000 items, which take 0\.0 GiB; set memory_gib=1 .*item-knn"
    ):
        EASE(memory_gib=0.044).build(vocab)


def test_ease_refuses_no_regularisation():
    with pytest.raises(ContractError, match="regularisation above 0, got regularisation=0"):
        EASE(regularisation=0)


# -- what they share -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "control", [Popularity(), RecentPopularity(), Markov(), ItemKNN(k=3), EASE()], ids=lambda c: type(c).__name__
)
def test_a_batch_of_rows_is_the_rows_alone(control):
    train = train_of(HISTORIES)
    scorer = control.build(train.dataset.vocab)
    scorer.estimate(train)
    whole = scorer.score(asked(ROWS), Causal())
    assert whole.shape == (len(ROWS), V)
    for at, row in enumerate(ROWS):
        assert torch.equal(scorer.score(asked([row]), Causal())[0], whole[at])


@pytest.mark.parametrize(
    "control", [Popularity(), RecentPopularity(), Markov(), ItemKNN(k=3), EASE()], ids=lambda c: type(c).__name__
)
def test_no_training_event_at_all_gives_scores_without_error(control):
    found = scored(control, train_of([[], []]))
    assert np.isfinite(found).all()
    assert (found == 0).all()


def test_histories_are_the_asked_rows_up_to_the_asked_event():
    batch = asked([[4, 5, 6], [7, 8], [9]])
    marks = torch.tensor([False, True, False, False, False, True])  # 5 in the first row, nothing in the second, 9 in the third
    found = counting.histories(batch.with_channels(asked=marks))
    assert found.n_rows == 2
    assert found.row.tolist() == [0, 0, 1]
    assert found.item.tolist() == [4, 5, 9]
    assert found.age.tolist() == [1, 0, 0]


def test_saved_buffers_of_another_control_are_refused():
    train = train_of(HISTORIES)
    scorer = Markov().build(train.dataset.vocab)
    scorer.estimate(train)
    saved = dict(scorer.state_dict())
    with pytest.raises(CheckpointError, match=r"needed tensors \['columns', 'starts', 'weights'\] for ItemKNNScorer"):
        ItemKNN().build(train.dataset.vocab).assign(saved)
    with pytest.raises(CheckpointError, match=r"'columns' as torch.int32 with 1 axes, got torch.float32 with 1"):
        Markov().build(train.dataset.vocab).assign({**saved, "columns": saved["columns"].float()})
