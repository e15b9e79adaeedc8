"""Item texts, the encoder, and its three policies: each against the slow way to say the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lmrs.errors import ContractError, DataError
from lmrs.language import Backbone
from lmrs.testing.values import check_repr
from lmrs.texts import Cached, Encoder, Frozen, ItemText, Joint, TextEncoder, encoded
from lmrs.texts.encoder import _bucketed
from lmrs.vocab import Attributes, Vocab

TEXTS = ["a good movie", "", "the film that will not end and not begin", "a good movie", "Ünïcode [SEP] [CLS]", "x", "no"]
ENCODER = TextEncoder(Backbone("tiny-encoder"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def catalogue(**columns) -> Vocab:
    ids = [f"i{at}" for at in range(4)]
    kinds = Attributes.from_lists(pa.array([["drama", "war"], [], ["war"], []], pa.list_(pa.string())))
    codes = Attributes.from_lists(pa.array([[1, 2], [3], [], []], pa.list_(pa.int64())))
    table = pa.table({"item_id": ids, **columns})
    return Vocab(pa.array(ids, pa.large_string()), attributes={"genres": kinds, "codes": codes}, catalogue=table)


# -- which text ----------------------------------------------------------------------------------------------------------


def test_columns_are_joined_and_items_without_text_get_the_stated_one() -> None:
    vocab = catalogue(title=["Heat", None, " ", "Alien"], year=[1, 2, 3, 4], blurb=["hot", "b", "", None])
    texts, coverage = ItemText(joiner=" | ", missing="nothing").of(vocab)
    assert texts == ["Heat | hot | drama, war", "b", "war", "Alien"]
    assert coverage.columns == (("title", 2), ("blurb", 2), ("genres", 2))  # numbers are no words
    assert (coverage.items, coverage.without, coverage.distinct) == (4, 0, 4)

    texts, coverage = ItemText(("title",), missing="nothing").of(vocab)
    assert texts == ["Heat", "nothing", "nothing", "Alien"]
    assert str(coverage) == "2 of 4 items have a text (title 2); 3 are different"


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="needed an item column or attribute 'title', got none; name one of genres, codes"):
        ItemText(("title",)).of(catalogue())
    with pytest.raises(DataError, match="did you mean genres"):
        ItemText(("genre",)).of(catalogue())


def test_a_catalogue_without_any_text_is_refused() -> None:
    with pytest.raises(DataError, match=r"needed item texts .* got 4 items without text in title"):
        ItemText(("title",)).of(catalogue(title=[None, "", " ", None]))
    ids = pa.array(["a"], pa.large_string())
    with pytest.raises(DataError, match="1 items without text in any column; add a column 'title'"):
        ItemText().of(Vocab(ids))


# -- the encoder ---------------------------------------------------------------------------------------------------------


def by_hand(about: TextEncoder, text: str) -> Tensor:
    """One text through the plain model of the transformers package."""
    tokens = about.backbone.tokenizer()
    model = about.backbone.build()
    model = model.get_encoder() if about.backbone.name == "tiny-seq2seq" else model.base_model
    put = {
        "tiny-encoder": ([tokens.cls], [tokens.sep]),
        "tiny-causal": ([tokens.bos], []),
        "tiny-seq2seq": ([], [tokens.eos]),
    }[about.backbone.name]
    room = about.max_tokens - len(put[0]) - len(put[1])
    ids = torch.tensor([[*put[0], *tokens.encode(text)[:room], *put[1]]])
    with torch.no_grad():
        states = model(input_ids=ids).last_hidden_state[0]
    vector = {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[about.pooling]
    return vector / vector.norm() if about.normalise else vector


@pytest.mark.parametrize(
    ("name", "pooling"),
    [
        ("tiny-encoder", "mean"), ("tiny-encoder", "cls"), ("tiny-causal", "mean"), ("tiny-causal", "last"),
        ("tiny-seq2seq", "mean"),
    ],
)  # fmt: skip
def test_vectors_are_those_of_one_text_at_a_time(name: str, pooling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmrs.texts.encoder._CELLS", 40)  # several batches, some with padding
    for normalise in (True, False):
        about = TextEncoder(Backbone(name), pooling, normalise, max_tokens=12)
        module = about.build()
        read = module.read(TEXTS)
        with torch.no_grad():
            found, some = module(read), module(read, torch.tensor([4, 0]))
        assert read.cut == 2
        wanted = torch.stack([by_hand(about, text) for text in TEXTS])
        assert torch.allclose(found, wanted, rtol=0, atol=1e-5)
        assert torch.allclose(some, wanted[[4, 0]], rtol=0, atol=1e-5)
        assert module.backbone.training is False
    assert module(read, torch.zeros(0, dtype=torch.int64)).shape == (0, module.dim)


@given(sizes=st.lists(st.integers(1, 600), min_size=1, max_size=80))
def test_batches_hold_every_text_once_with_little_padding(sizes: list[int]) -> None:
    size = np.array(sizes)
    batches = list(_bucketed(size))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
    for batch in batches:
        longest, shortest = int(size[batch].max()), int(size[batch].min())
        assert len(batch) * longest <= max(2048, longest)
        assert shortest >= longest - 2 or shortest >= longest * 7 // 8


def test_what_a_backbone_cannot_do_is_refused() -> None:
    with pytest.raises(ContractError, match="pooling 'mean' or 'last' for tiny-causal, of family causal, got 'cls'"):
        TextEncoder(Backbone("tiny-causal"), "cls").build()
    with pytest.raises(ContractError, match="pooling"):
        TextEncoder(Backbone("tiny-causal"), "max")
    with pytest.raises(ContractError, match="max_tokens of at least 3"):
        TextEncoder(Backbone("tiny-causal"), max_tokens=2)
    for value in (ENCODER, Cached(3), Joint(), Frozen(), ItemText(("title",))):
        check_repr(value)


# -- joint ---------------------------------------------------------------------------------------------------------------


def gradients(encoder: Encoder, loss: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(encoder.backbone.parameters()), allow_unused=True)
    return [grad for grad in found if grad is not None]


def test_joint_gradients_are_those_of_the_loop_over_occurrences() -> None:
    joint = Joint().build(ENCODER, TEXTS)
    items = torch.tensor([[2, 0, 2], [5, 2, 0]])
    weight = torch.randn(2, 3, joint.dim, generator=torch.Generator().manual_seed(0))
    calls: list[int] = []
    plain = joint.encoder.forward
    joint.encoder.forward = lambda read, which, rng: calls.append(len(which)) or plain(read, which, rng)
    found = joint(items)
    assert calls == [3], "each distinct item once"
    naive = torch.stack([plain(joint.read, item[None])[0] for item in items.flatten()]).view(2, 3, -1)
    assert torch.allclose(found, naive, rtol=0, atol=1e-5)
    one, two = gradients(joint.encoder, (found * weight).sum()), gradients(joint.encoder, (naive * weight).sum())
    assert len(one) == len(two) > 30
    assert any(grad.abs().max() > 1e-2 for grad in one)
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def test_dropout_of_the_encoder_comes_from_the_generator() -> None:
    joint, items = Joint().build(ENCODER, TEXTS), torch.arange(7)
    state = torch.get_rng_state()
    one, two = (joint(items, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.allclose(one, joint(items))
    assert torch.equal(torch.get_rng_state(), state)


# -- cached --------------------------------------------------------------------------------------------------------------


def test_staleness_zero_is_joint() -> None:
    joint, cached = Joint().build(ENCODER, TEXTS), Cached(0).build(ENCODER, TEXTS)
    items = torch.tensor([3, 1, 3])
    for _ in range(2):
        one, two = joint(items), cached(items)
        assert torch.equal(one, two)
        for a, b in zip(gradients(joint.encoder, one.sum()), gradients(cached.encoder, two.sum()), strict=True):
            assert torch.equal(a, b)
        with torch.no_grad():
            for each in (joint, cached):
                for parameter in each.encoder.parameters():
                    parameter.mul_(1.01)


@settings(max_examples=40)
@given(steps=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=4), min_size=1, max_size=7), bound=st.integers(0, 3))
def test_no_vector_is_older_than_the_bound_and_none_is_made_again_before(steps: list[list[int]], bound: int) -> None:
    """The encoder is replaced by one that writes the step into the vector: age can be read off."""
    cached = SHARED[bound]
    cached.kept.zero_(), cached.step.zero_(), cached.made.fill_(-(2**62))
    now = [0]

    def stamped(read: object, which: Tensor, rng: object) -> Tensor:
        return torch.full((len(which), cached.dim), float(now[0]), requires_grad=True)

    cached.encoder.forward = stamped  # type: ignore[method-assign]
    made: dict[int, int] = {}
    for step, items in enumerate(steps, 1):
        now[0] = step
        found = cached(torch.tensor(items))
        for item in items:
            if item not in made or step - made[item] > bound:
                made[item] = step
        assert found[:, 0].tolist() == [made[item] for item in items]
        assert found.requires_grad == any(made[item] == step for item in items)


SHARED = {bound: Cached(bound).build(ENCODER, TEXTS) for bound in range(4)}


def test_a_kept_vector_is_a_constant_and_the_cache_is_saved() -> None:
    cached = Cached(2).build(ENCODER, TEXTS)
    cached(torch.tensor([0]))
    mixed = cached(torch.tensor([0, 5]))
    (towards,) = torch.autograd.grad(
        mixed[0].sum(), [cached.encoder.backbone.embeddings.word_embeddings.weight], retain_graph=True
    )
    assert not towards.any()
    (towards,) = torch.autograd.grad(mixed[1].sum(), [cached.encoder.backbone.embeddings.word_embeddings.weight])
    assert towards.any()
    again = Cached(2).build(ENCODER, TEXTS)
    again.load_state_dict(cached.state_dict())
    assert (int(again.step), again.made.tolist()) == (2, [1, -(2**62), -(2**62), -(2**62), -(2**62), 2, -(2**62)])
    with torch.no_grad():  # asked, not trained: the clock stands
        again(torch.tensor([0]))
    assert int(again.step) == 2


# -- frozen --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Which texts are read by an encoder."""
    seen: list[list[str]] = []
    plain = Encoder.read

    def read(self: Encoder, texts: list[str]) -> object:
        seen.append(sorted(texts))
        return plain(self, texts)

    monkeypatch.setattr(Encoder, "read", read)
    return seen


def test_texts_are_encoded_once_and_come_from_disk_afterwards(reads: list[list[str]]) -> None:
    first, second = encoded(ENCODER, TEXTS), encoded(ENCODER, TEXTS)
    assert reads == [sorted(set(TEXTS))]
    assert first.tobytes() == second.tobytes()
    wanted = torch.stack([by_hand(ENCODER, text) for text in TEXTS])
    assert np.abs(first - wanted.numpy()).max() < 1e-5
    shuffled = encoded(ENCODER, TEXTS[::-1])
    assert len(reads) == 1
    assert shuffled.tobytes() == first[::-1].tobytes()


def test_only_changed_texts_are_encoded_again(reads: list[list[str]]) -> None:
    first = encoded(ENCODER, TEXTS)
    second = encoded(ENCODER, ["new", *TEXTS[1:], "newer"])
    assert reads[1] == ["new", "newer"]
    assert second[1:7].tobytes() == first[1:].tobytes()
    assert np.abs(second[0] - by_hand(ENCODER, "new").numpy()).max() < 1e-5


@pytest.mark.parametrize(
    "other",
    [
        replace(ENCODER, pooling="cls"),
        replace(ENCODER, normalise=False),
        replace(ENCODER, max_tokens=4),
        replace(ENCODER, backbone=Backbone("tiny-encoder", "bf16")),
        replace(ENCODER, backbone=Backbone("tiny-causal")),
    ],
)
def test_another_encoder_does_not_take_the_vectors_of_the_first(other: TextEncoder, reads: list[list[str]]) -> None:
    first, second = encoded(ENCODER, TEXTS), encoded(other, TEXTS)
    assert len(reads) == 2
    assert first.tobytes() != second.tobytes()


@pytest.mark.parametrize("fault", ["cut", "changed", "empty"])
def test_a_damaged_file_is_made_again(fault: str, cache: Path, reads: list[list[str]]) -> None:
    first = encoded(ENCODER, TEXTS)
    (file,) = cache.rglob("*.safetensors")
    raw = bytearray(file.read_bytes())
    raw[-9] ^= 1
    file.write_bytes({"cut": bytes(raw[:-100]), "changed": bytes(raw), "empty": b""}[fault])
    assert encoded(ENCODER, TEXTS).tobytes() == first.tobytes()
    assert len(reads) == 2
    encoded(ENCODER, TEXTS)
    assert len(reads) == 2
    assert [path.name for path in cache.rglob("*") if path.is_file()] == [file.name], "a temporary file was left"


def test_the_frozen_policy_gives_the_vectors_and_keeps_no_model() -> None:
    frozen = Frozen().build(ENCODER, TEXTS)
    assert not list(frozen.parameters())
    assert not frozen.state_dict(), "vectors are not saved with a recommender"
    joint = Joint().build(ENCODER, TEXTS)
    items = torch.tensor([[6, 0], [2, 2]])
    assert torch.allclose(frozen(items), joint(items), rtol=0, atol=1e-5)
    assert torch.allclose(frozen.table(), joint.table(), rtol=0, atol=1e-5)
    assert frozen(items).shape == (2, 2, frozen.dim)
