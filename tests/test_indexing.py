"""Every indexer: codes tell items apart, know nothing of held-out events, and survive a file."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from lmrs.dataset import Dataset
from lmrs.describe import from_json, to_json
from lmrs.errors import CheckpointError, ContractError
from lmrs.indexing import (
    Collaborative,
    Hybrid,
    Independent,
    Index,
    LearnedQuantised,
    NumberText,
    Quantised,
    Random,
    Sequential,
    Title,
)
from lmrs.indexing.autoencoder import learned
from lmrs.indexing.index import by_id
from lmrs.indexing.quantised import closest, kmeans
from lmrs.indexing.spectral import clusters, embedding
from lmrs.indexing.text import ORDERS
from lmrs.language import tiny as backbones
from lmrs.language.tokens import Tokens, tokens_of
from lmrs.split import Split, Train
from lmrs.testing import tiny
from lmrs.testing.values import check_repr
from lmrs.vocab import Vocab

SMALL = LearnedQuantised(levels=2, codes=4, dim=3, hidden=(16,), steps=150, batch_size=32, lr=1e-2)

INDEXERS = [
    NumberText(),
    Sequential(),
    Sequential(text=" {}", start=7, users="long-to-short"),
    Title(),
    Title(text=" {}", limit=2),
    Independent(),
    Random(),
    Random(length=1, branching=40),
    Collaborative(),
    Collaborative(branches=2, size=3),
    Collaborative(branches=3, size=3, deepest=0),
    Quantised(levels=2, codes=3),
    LearnedQuantised(levels=2, codes=3, dim=2, hidden=(3,), steps=3, batch_size=5),
    Hybrid(),
    Hybrid(first=Quantised(levels=2, codes=2)),
    Hybrid(first=Random(length=2)),
]
WITHOUT_TEXT = [indexer for indexer in INDEXERS if not isinstance(indexer, NumberText | Sequential | Title)]


def tokens() -> Tokens:
    return tokens_of(backbones.tokenizer("causal"))


def vectors(data: Dataset) -> np.ndarray:
    """float32[V, 4]: a function of the id, as text vectors are."""
    rows = [np.random.default_rng(int(key[1:])).normal(size=4) for key in data.vocab.items.to_pylist()]
    return np.asarray(rows, np.float32)


def fitted(indexer, train: Train, *, seed: int = 0) -> Index:
    return indexer.fit(train, seed=seed, tokens=tokens(), vectors=vectors(train.dataset))


def by_item(index: Index, data: Dataset) -> dict[str, tuple[int, ...]]:
    return {key: tuple(index.code(item).tolist()) for item, key in enumerate(data.vocab.items.to_pylist())}


def renumbered(data: Dataset, order: np.ndarray) -> Dataset:
    """The same data with other item numbers: old item order[i] becomes i."""
    number = np.empty(len(order), np.int32)
    number[order] = np.arange(len(order))
    return replace(
        data, vocab=Vocab(data.vocab.items.take(pa.array(order)), data.vocab.users), item=number[data.item],
        items=data.items.take(pa.array(order)),
    )  # fmt: skip


@pytest.mark.parametrize("indexer", INDEXERS, ids=repr)
class TestIndexers:
    def test_no_code_is_another_or_begins_one(self, indexer) -> None:
        train = tiny.split().train
        index = fitted(indexer, train)
        codes = [tuple(index.code(item).tolist()) for item in range(train.dataset.n_items)]
        for at, code in enumerate(codes):
            assert code
            assert all(0 <= token < index.size for token in code)
            assert not [other for other in (*codes[:at], *codes[at + 1 :]) if other[: len(code)] == code]
            assert index.trie.walk(np.asarray(code)) == at

    def test_events_after_training_change_nothing(self, indexer) -> None:
        split = tiny.split()
        for shift in (1, 5):
            other = tiny.with_future(split.dataset, split.train, shift=shift)
            assert not np.array_equal(other.dataset.item, split.dataset.item)
            assert fitted(indexer, other).fingerprint == fitted(indexer, split.train).fingerprint

    def test_the_numbers_of_items_change_nothing(self, indexer) -> None:
        """They follow the whole log, held-out events included."""
        split = tiny.split()
        turned = renumbered(split.dataset, np.random.default_rng(3).permutation(split.dataset.n_items))
        found = by_item(fitted(indexer, Train(turned, split.train.stop)), turned)
        assert found == by_item(fitted(indexer, split.train), split.dataset)

    def test_it_is_a_function_of_the_seed(self, indexer) -> None:
        train = tiny.split().train
        assert fitted(indexer, train, seed=4).fingerprint == fitted(indexer, train, seed=4).fingerprint

    def test_repr_evaluates_to_an_equal_value(self, indexer) -> None:
        check_repr(indexer)
        assert fitted(indexer, tiny.split().train).method == repr(indexer)

    def test_it_is_written_as_json(self, indexer) -> None:
        assert from_json(json.loads(json.dumps(to_json(indexer)))) == indexer

    def test_it_survives_a_folder(self, indexer, tmp_path) -> None:
        index = fitted(indexer, tiny.split().train)
        again = Index.load(index.save(tmp_path / "index"))
        assert again.fingerprint == index.fingerprint
        assert (again.method, again.words, again.collisions, again.new_items) == (
            index.method,
            index.words,
            index.collisions,
            index.new_items,
        )
        assert again.codes.dtype == np.int32

    def test_its_words_extend_the_tokeniser_it_was_fitted_with(self, indexer) -> None:
        index, read = fitted(indexer, tiny.split().train), tokens()
        wide = index.extended(read)
        assert wide.size == index.size
        for item in range(index.n_items):
            assert index.spelled(item, read) == "".join(wide.decode([token], control=True) for token in index.code(item))
        with pytest.raises(ContractError, match="the tokeniser this index was fitted with"):
            index.extended(tokens_of(backbones.tokenizer("seq2seq")))


@pytest.mark.parametrize("indexer", [NumberText(), Random(), Random(length=2), Hybrid(first=Random(length=2))], ids=repr)
def test_another_seed_draws_another_index(indexer) -> None:
    train = tiny.split().train
    assert fitted(indexer, train, seed=1).fingerprint != fitted(indexer, train, seed=2).fingerprint


@pytest.mark.parametrize("indexer", WITHOUT_TEXT, ids=repr)
def test_words_of_its_own_move_behind_any_tokeniser(indexer) -> None:
    train = tiny.split().train
    bare = indexer.fit(train, vectors=vectors(train.dataset))
    assert bare.base == 0
    moved = bare.on(tokens())
    assert moved.fingerprint == fitted(indexer, train).fingerprint
    assert moved.on(tokens_of(backbones.tokenizer("encoder"))).base == tokens_of(backbones.tokenizer("encoder")).size


def test_text_does_not_move_to_another_tokeniser() -> None:
    other = tokens_of(backbones.tokenizer("encoder"))
    assert other.size == tokens().size
    with pytest.raises(ContractError, match="the tokeniser this index was fitted with"):
        fitted(Title(), tiny.split().train).extended(other)
    with pytest.raises(ContractError, match="only words of its own"):
        fitted(Title(), tiny.split().train).on(tokens_of(backbones.tokenizer("encoder")))


@pytest.mark.parametrize("indexer", [NumberText(), Sequential(), Title()], ids=repr)
def test_text_needs_a_tokeniser(indexer) -> None:
    with pytest.raises(ContractError, match="needed a tokeniser"):
        indexer.fit(tiny.split().train)


def test_a_batch_is_each_code_in_turn() -> None:
    index = fitted(Title(), tiny.split().train)
    offsets, codes = index.batch(np.asarray([3, 0, 3]))
    assert [row.tolist() for row in np.split(codes, offsets[1:-1])] == [index.code(i).tolist() for i in (3, 0, 3)]


# -- each rule ---------------------------------------------------------------------------------------------------------------


def log(rows: list[list[int]], *, items: int, titles: list[str | None] | None = None) -> Split:
    """One user a row; all events train except the last two of rows of three and more."""
    from lmrs.split import leave_one_out

    data = Dataset(
        name="log",
        vocab=Vocab(
            pa.array([f"i{at}" for at in range(items)], pa.large_string()),
            pa.array([f"u{at}" for at in range(len(rows))], pa.large_string()),
        ),
        item=np.asarray([item for row in rows for item in row], np.int32),
        offsets=np.cumsum([0, *map(len, rows)]),
        items=None if titles is None else pa.table({"item_id": [f"i{at}" for at in range(items)], "title": titles}),
    )
    return leave_one_out(data)


def test_sequential_numbers_follow_the_training_part_of_each_history_then_ids() -> None:
    train = log([[4, 2, 4, 0, 6], [2, 5, 1, 3]], items=7).train  # training: 4 2 4 | 2 5; items 0, 1, 3 and 6 are new
    index = fitted(Sequential(text="{}", start=11), train)
    assert [index.spelled(item, tokens()) for item in (4, 2, 5, 0, 1, 3, 6)] == [f"{n}<|endoftext|>" for n in range(11, 18)]
    assert index.new_items == 4


@pytest.mark.parametrize(("users", "wanted"), list(zip(ORDERS, ([3, 1, 0, 2, 4], [2, 4, 3, 1, 0], [3, 1, 0, 2, 4]))))
def test_sequential_goes_through_users_in_the_order_asked(users: str, wanted: list[int]) -> None:
    train = log([[3, 1, 0, 2, 4], [2, 4]], items=5).train  # three and two training events
    assert train.lengths.tolist() == [3, 2]
    index = fitted(Sequential(text="{}", start=0, users=users), train)
    assert sorted(range(5), key=lambda item: index.spelled(item, tokens())) == wanted


def test_numbers_are_a_permutation_from_the_start_on() -> None:
    index = fitted(NumberText(text="item_{}", start=1000), tiny.split().train)
    spelled = sorted(index.spelled(item, tokens()) for item in range(13))
    assert spelled == [f"item_{n}<|endoftext|>" for n in range(1000, 1013)]
    assert index.words == ()


def test_titles_that_are_alike_are_numbered_and_counted() -> None:
    titles = ["Heat", "Heat (2)", "Heat", "Heat", None, "Heat again"]
    index = fitted(Title(), log([[0, 2, 5, 5, 5]], items=6, titles=titles).train)
    # i0 and i2 are trained, i3 is not; "Heat (2)" is taken by a title, so i2 becomes (3) and i3 the next free one
    assert [index.spelled(item, tokens()).removesuffix("<|endoftext|>") for item in range(6)] == [
        "Heat",
        "Heat (2)",
        "Heat (3)",
        "Heat (4)",
        "i4",
        "Heat again",
    ]
    assert (index.collisions.items, index.collisions.distinct, index.collisions.sharing, index.collisions.largest) == (6, 4, 3, 3)
    assert "3 items (50.0%) share" in str(index.collisions)


def test_a_title_cannot_spell_the_end() -> None:
    index = fitted(Title(), log([[0, 1, 1, 1]], items=2, titles=["a<|endoftext|>b", "a"]).train)
    assert [index.code(item).tolist().count(tokens().eos) for item in (0, 1)] == [1, 1]


def test_random_codes_use_words_of_their_level() -> None:
    index = Random(length=3).fit(tiny.split().train)
    codes = index.codes.reshape(13, 3)
    assert index.words[::3] == ("<r0_0>", "<r1_0>", "<r2_0>")  # 3 ** 3 >= 13 > 2 ** 3
    assert (codes // 3 == [0, 1, 2]).all()


def test_random_refuses_a_code_space_that_is_too_small() -> None:
    with pytest.raises(ContractError, match="hold 13 items"):
        Random(length=2, branching=3).fit(tiny.split().train)


def planted(groups: int, size: int, *, users: int, seed: int) -> Split:
    """Users who choose within one group of items, four to six of them, and two items of group 0 at the end."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        own = user % groups * size + rng.permutation(size)[: rng.integers(4, 7)]
        rows.append([*own.tolist(), 0, 1])
    return log(rows, items=groups * size)


def test_collaborative_finds_planted_groups() -> None:
    split = planted(4, 6, users=160, seed=1)
    index = Collaborative(branches=4, size=8).fit(split.train)
    first = [index.code(item)[0] for item in range(24)]
    assert adjusted_rand_score(np.arange(24) // 6, first) == 1
    assert {len(index.code(item)) for item in range(24)} == {2}
    assert sorted(index.code(item)[1] for item in range(6)) == list(range(6))


def test_collaborative_keeps_new_items_below_a_word_of_their_own() -> None:
    train = log([[0, 1, 2, 3, 9, 8], [1, 2, 0, 3, 7, 6]], items=10).train
    index = Collaborative(branches=2, size=2).fit(train)
    spelled = {item: index.spelled(item) for item in range(10)}
    assert [spelled[item] for item in (4, 5, 6, 7, 8, 9)] == [f"<new><c{n // 4}><c{n // 2 % 2}><c{n % 2}>" for n in range(6)]
    assert not [item for item in range(4) if "<new>" in spelled[item]]


def incidence(split: Split) -> np.ndarray:
    data = split.dataset
    out = np.zeros((data.n_users, data.n_items))
    users, places = split.train.events()
    out[users, data.item[places]] = 1
    return out


def test_clusters_are_those_of_scikit_learn() -> None:
    import scipy.sparse as sp

    x = incidence(planted(3, 7, users=60, seed=5))
    x[::5, 2] = 1  # an item of group 0 that others choose as well: the groups are joined
    graph = x.T @ x
    np.fill_diagonal(graph, 0)
    reference = SpectralClustering(3, affinity="precomputed", assign_labels="cluster_qr", random_state=0).fit(graph)
    found = clusters(embedding(sp.csr_matrix(x), 3))
    assert adjusted_rand_score(reference.labels_, found) == 1


@pytest.mark.parametrize("dense", [400, 0])
def test_the_embedding_solves_the_eigenvalue_problem_of_the_graph(dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A v = lambda D v, for the largest lambda, with the co-occurrences of an item with itself left out."""
    import scipy.linalg
    import scipy.sparse as sp

    from lmrs.indexing import spectral

    monkeypatch.setattr(spectral, "_DENSE", dense)
    x = (np.random.default_rng(4).random((40, 15)) < 0.3).astype(float)
    graph = x.T @ x
    np.fill_diagonal(graph, 0)
    degree = np.diag(graph.sum(axis=1))
    values = np.sort(scipy.linalg.eigh(graph, degree, eigvals_only=True))[::-1][:4]
    vectors = embedding(sp.csr_matrix(x), 4)
    assert np.allclose(graph @ vectors, degree @ vectors * values, atol=1e-4)
    assert np.allclose(vectors.T @ degree @ vectors, np.eye(4), atol=1e-4)


def test_the_sparse_solver_agrees_with_the_dense_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import scipy.sparse as sp

    from lmrs.indexing import spectral

    cells = incidence(planted(5, 9, users=90, seed=2))
    for group in range(5):  # an item that users of the next group choose as well: one connected graph
        cells[(np.arange(90) % 5 == (group + 1) % 5) & (np.arange(90) % (3 + group) == 0), group * 9 + 4] = 1
    x = sp.csr_matrix(cells)
    dense = embedding(x, 5)
    monkeypatch.setattr(spectral, "_DENSE", 0)
    sparse = embedding(x, 5)
    assert adjusted_rand_score(clusters(dense), clusters(sparse)) == 1


def test_quantised_codes_are_the_nearest_centres_of_residuals() -> None:
    split = tiny.split()
    index = Quantised(levels=2, codes=4, rounds=50).fit(split.train, vectors=vectors(split.dataset))
    codes = index.codes.reshape(13, 3)
    first, second = codes[:, 0], codes[:, 1] - 4
    x = vectors(split.dataset)
    known = split.train.counts() > 0
    centres = np.stack([x[known & (first == c)].mean(axis=0) for c in range(4)])  # k-means has converged
    assert (np.square(x[:, None] - centres).sum(axis=2).argmin(axis=1) == first).all()
    rest = x - centres[first]
    centres = np.stack([rest[known & (second == c)].mean(axis=0) for c in range(4)])
    assert (np.square(rest[:, None] - centres).sum(axis=2).argmin(axis=1) == second).all()


def test_quantised_counts_collisions_and_tells_them_apart_in_order() -> None:
    split = log([[3, 1, 0, 0, 0], [1, 4, 0, 2, 2]], items=5)  # item 2 is new
    same = np.asarray([[1, 1], [5, 5], [1, 1], [1, 1], [9, 9]], np.float32)
    index = Quantised(levels=1, codes=3).fit(split.train, vectors=same)
    assert (index.collisions.distinct, index.collisions.sharing, index.collisions.largest) == (3, 3, 3)
    assert [index.spelled(item)[-5:] for item in (0, 3, 2, 1, 4)] == ["<z_0>", "<z_1>", "<z_2>", "<z_0>", "<z_0>"]


@pytest.mark.parametrize("indexer", [Quantised(levels=2, codes=3), replace(SMALL, steps=5)], ids=repr)
def test_the_vector_of_a_new_item_moves_no_codebook(indexer) -> None:
    split = tiny.split()
    x = vectors(split.dataset)
    new = np.flatnonzero(split.train.counts() == 0)
    assert len(new)
    before = indexer.fit(split.train, vectors=x)
    x[new] += 50
    after = indexer.fit(split.train, vectors=x)
    old = np.setdiff1d(np.arange(13), new)
    assert [before.code(item)[:-1].tolist() for item in old] == [after.code(item)[:-1].tolist() for item in old]


@pytest.mark.parametrize(
    ("given_vectors", "message"),
    [(None, "got None"), (np.zeros((3, 2)), r"got shape \(3, 2\)"), (np.full((13, 2), np.nan), "NaN")],
)
def test_quantised_says_what_vectors_it_needs(given_vectors: np.ndarray | None, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Quantised().fit(tiny.split().train, vectors=given_vectors)


def clouds() -> torch.Tensor:
    """float32[120, 6]: three groups of four subgroups each."""
    rng = np.random.default_rng(2)
    group, sub = rng.normal(size=(3, 6)) * 3, rng.normal(size=(12, 6))
    at = np.arange(120) % 12
    return torch.from_numpy((group[at // 4] + sub[at] + rng.normal(size=(120, 6)) * 0.05).astype(np.float32))


def test_the_autoencoder_s_loss_is_the_equation_and_its_gradient_passes_straight_through() -> None:
    x = clouds()
    network = learned(replace(SMALL, steps=1), x, seed=0)
    network.zero_grad()
    loss = network.loss(x)
    loss.backward()
    z = network.encoder(x).detach()
    z.requires_grad_()
    left, total, wanted = z, 0, 0
    for book in network.books:
        near = torch.cdist(left.detach(), book.detach()).argmin(dim=1)
        code = book.detach()[near]
        wanted = wanted + (left.detach() - code).square().sum(1) + 0.25 * (left - code).square().sum(1)
        left, total = left - code, total + code
    entering = total.clone().requires_grad_()
    rebuilt = (x - network.decoder(entering)).square().sum(1)
    assert torch.allclose(loss, (rebuilt + wanted).mean(), rtol=1e-5)
    # what reaches the encoder: the decoder's gradient at the codes, as if they were z, and that of the commitment
    (first,) = torch.autograd.grad(rebuilt.mean(), entering)
    (second,) = torch.autograd.grad(wanted.mean(), z)
    bias = list(network.encoder.parameters())[-1].grad
    assert torch.allclose(bias, (first + second).sum(0), rtol=1e-4, atol=1e-6)


def test_the_autoencoder_learns_and_uses_its_codes() -> None:
    x = clouds()
    before, after = (learned(replace(SMALL, steps=steps), x, seed=0) for steps in (1, 150))
    with torch.no_grad():
        assert after.loss(x) < before.loss(x) / 4
        paths = after.quantise(after.encoder(x))[0]
    assert len(paths.unique(dim=0)) >= 10  # of 12 subgroups
    state = torch.get_rng_state()
    again = learned(SMALL, x, seed=0)
    assert torch.equal(again.books, after.books)
    assert torch.equal(torch.get_rng_state(), state)


@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 5))
@settings(max_examples=30)
def test_kmeans_leaves_no_centre_empty_and_never_does_worse_than_one_mean(n: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 6, (n, 2)).astype(np.float32)
    centres = kmeans(points, count, rounds=30, rng=rng)
    code = closest(points, centres)
    assert len(centres) == min(count, len(np.unique(points, axis=0)))
    error = np.square(points - centres[code]).sum()
    assert error <= np.square(points - points.mean(axis=0)).sum() + 1e-3
    if len(np.unique(points, axis=0)) <= count:
        assert error == 0


def test_the_hybrid_code_is_the_path_and_a_token_of_its_own() -> None:
    split = tiny.split()
    first = Quantised(levels=2, codes=3)
    path = first.fit(split.train, vectors=vectors(split.dataset))
    index = Hybrid(first=first).fit(split.train, vectors=vectors(split.dataset))
    for rank, item in enumerate(by_id(split.dataset.vocab).tolist()):
        assert index.code(item)[:-1].tolist() == path.code(item)[:-1].tolist()
        assert index.spelled(item).endswith(f"<item_{rank}>")
    assert index.collisions == path.collisions


# -- bad descriptions and bad files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NumberText(text="item"), "one {} in it"),
        (lambda: Title(limit=0), "limit of at least 1"),
        (lambda: Sequential(users="random"), "short-to-long"),
        (lambda: Random(length=0), "at least 1"),
        (lambda: Collaborative(branches=1), "2 <= branches <= size"),
        (lambda: Collaborative(branches=9, size=8), "2 <= branches <= size"),
        (lambda: Quantised(codes=0), "codes of at least 1"),
        (lambda: LearnedQuantised(steps=0), "steps of at least 1"),
        (lambda: LearnedQuantised(hidden=(4, 0)), "hidden widths"),
    ],
)
def test_a_description_that_cannot_work_is_refused(make, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        make()


def test_a_saved_index_that_was_changed_is_refused(tmp_path) -> None:
    index = fitted(Random(), tiny.split().train)
    folder = index.save(tmp_path / "index")
    about = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(about | {"base": 3}))
    with pytest.raises(CheckpointError, match="as it was saved"):
        Index.load(folder)
    index.save(folder)
    whole = (folder / "index.arrow").read_bytes()
    (folder / "index.arrow").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="a saved item index"):
        Index.load(folder)
    with pytest.raises(CheckpointError, match="a saved item index"):
        Index.load(tmp_path / "nowhere")
