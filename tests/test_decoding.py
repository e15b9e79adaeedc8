"""Candidates and beams beside one forward pass for each: the prompt read once, keys and values shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs.decoding import Context, Likelihoods, ModelSteps, beam, causal, continuations, left_padded, masked, seq2seq
from lmrs.errors import ContractError
from lmrs.indexing import Quantised, Random, Title, Trie
from lmrs.language import tiny as backbones
from lmrs.language.tokens import tokens_of
from lmrs.testing import tiny

TEXTS = ["user watched Heat (1995), Casino,", "a good movie: ", "the user will watch next the film called"]
TITLES = [
    "Toy Story",
    "Heat",
    "H",
    "He",
    "The Lord of the Rings: The Return of the King",
    "Amélie",
    "Casino",
    "Hea",
    "and",
    "X-Men",
]


@pytest.fixture(scope="module")
def llama():
    return backbones.build("causal", words=True)


@pytest.fixture(scope="module")
def t5():
    return backbones.build("seq2seq", words=True)


def tokens(family: str):
    return tokens_of(backbones.tokenizer(family))


def ids(family: str, text: str) -> torch.Tensor:
    return torch.tensor(tokens(family).encode(text))


def batch(family: str, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    flat, offsets = tokens(family).batch(texts)
    return left_padded(torch.from_numpy(flat), torch.from_numpy(offsets), 2)


def candidates(family: str, titles: list[str] = TITLES) -> tuple[np.ndarray, np.ndarray]:
    flat, offsets = tokens(family).batch(titles)
    return offsets, flat


def rows_of(jagged: tuple[np.ndarray, np.ndarray]) -> list[torch.Tensor]:
    offsets, flat = jagged
    return [torch.from_numpy(row).long() for row in np.split(flat, offsets[1:-1])]


@torch.no_grad()
def alone_causal(model, prompt: torch.Tensor, rows: list[torch.Tensor]) -> np.ndarray:
    """One whole forward pass for each continuation, without a cache."""
    out = []
    for row in rows:
        logits = model(input_ids=torch.cat([prompt, row])[None], use_cache=False).logits[0].log_softmax(dim=1)
        out.append(float(logits[len(prompt) - 1 : -1].gather(1, row[:, None]).sum()))
    return np.asarray(out)


@torch.no_grad()
def alone_seq2seq(model, prompt: torch.Tensor, rows: list[torch.Tensor], start: tuple[int, ...] = ()) -> np.ndarray:
    out = []
    for row in rows:
        read = torch.cat([torch.tensor([model.config.decoder_start_token_id, *start]), row])
        logits = model(input_ids=prompt[None], decoder_input_ids=read[None, :-1], use_cache=False).logits[0].log_softmax(dim=1)
        out.append(float(logits[len(start) :].gather(1, row[:, None]).sum()))
    return np.asarray(out)


def whole(text: torch.Tensor) -> torch.Tensor:
    return torch.ones(1, len(text), dtype=torch.bool)


# -- candidates ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_candidates_of_a_causal_model_score_as_one_forward_each(llama, rows: int) -> None:
    prompt = ids("causal", TEXTS[0])
    found = continuations(causal(llama, prompt[None], whole(prompt)), candidates("causal"), rows=rows)
    wanted = alone_causal(llama, prompt, rows_of(candidates("causal")))
    assert np.abs(found.total - wanted).max() < 1e-4
    assert found.tokens.tolist() == [len(row) for row in rows_of(candidates("causal"))]
    assert np.allclose(found.mean, wanted / found.tokens, atol=1e-4)


@pytest.mark.parametrize("rows", [2, 32])
def test_candidates_of_an_encoder_decoder_score_as_one_forward_each(t5, rows: int) -> None:
    prompt = ids("seq2seq", TEXTS[2])
    found = continuations(seq2seq(t5, prompt[None], whole(prompt)), candidates("seq2seq"), rows=rows)
    assert np.abs(found.total - alone_seq2seq(t5, prompt, rows_of(candidates("seq2seq")))).max() < 1e-4


def test_the_decoder_may_begin_with_given_tokens(t5) -> None:
    prompt, start = ids("seq2seq", TEXTS[0]), ids("seq2seq", "item_")
    found = continuations(seq2seq(t5, prompt[None], whole(prompt), start=start), candidates("seq2seq"))
    wanted = alone_seq2seq(t5, prompt, rows_of(candidates("seq2seq")), start=tuple(start.tolist()))
    assert np.abs(found.total - wanted).max() < 1e-4


def test_prompts_of_different_length_read_together_are_each_alone(llama, t5) -> None:
    for family, read, model, alone in (("causal", causal, llama, alone_causal), ("seq2seq", seq2seq, t5, alone_seq2seq)):
        context = read(model, *batch(family, TEXTS))
        for row, text in enumerate(TEXTS):
            found = continuations(context.select(torch.tensor([row])), candidates(family))
            wanted = alone(model, ids(family, text), rows_of(candidates(family)))
            assert np.abs(found.total - wanted).max() < 1e-4, f"{family} {text}"


def other_causal(kind: str):
    """Positions learnt one by one (GPT-2), positions by the distance of keys (BLOOM), keys forgotten after a while (Mistral)."""
    from transformers import BloomConfig, BloomForCausalLM, GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

    size = {"vocab_size": tokens("causal").size, "hidden_size": 32, "num_attention_heads": 2, "initializer_range": 0.2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        if kind == "gpt2":
            return GPT2LMHeadModel(GPT2Config(n_layer=2, **size)).eval()
        if kind == "bloom":
            return BloomForCausalLM(BloomConfig(n_layer=2, **size)).eval()
        depth = {"num_hidden_layers": 2, "num_key_value_heads": 1, "intermediate_size": 64, "sliding_window": 8}
        return MistralForCausalLM(MistralConfig(**depth, **size)).eval()


@pytest.mark.parametrize("kind", ["gpt2", "bloom", "mistral"])
def test_other_kinds_of_causal_models_score_as_one_forward_each(kind: str) -> None:
    model = other_causal(kind)
    context = causal(model, *batch("causal", TEXTS))
    for row, text in enumerate(TEXTS):
        found = continuations(context.select(torch.tensor([row])), candidates("causal"), rows=4)
        wanted = alone_causal(model, ids("causal", text), rows_of(candidates("causal")))
        assert np.abs(found.total - wanted).max() < 1e-4, text


@pytest.mark.parametrize("kind", ["gpt2", "mistral"])
def test_beams_of_other_kinds_of_causal_models_are_exact(kind: str) -> None:
    model = other_causal(kind)
    index = Title().fit(tiny.split().train, tokens=tokens("causal"))
    found = beam(ModelSteps(causal(model, *batch("causal", TEXTS))), index.trie, k=13)
    codes = [torch.from_numpy(index.code(item)).long() for item in range(13)]
    for row, text in enumerate(TEXTS):
        scores = alone_causal(model, ids("causal", text), codes)
        assert found.items[row].tolist() == np.argsort(-scores, kind="stable").tolist()
        assert np.abs(found.scores[row] - np.sort(scores)[::-1]).max() < 1e-4


def test_embeddings_in_place_of_ids_give_the_same(llama, t5) -> None:
    for family, read, model in (("causal", causal, llama), ("seq2seq", seq2seq, t5)):
        prompt, mask = batch(family, TEXTS[:2])
        vectors = model.get_input_embeddings()(prompt)
        assert torch.allclose(read(model, None, mask, embeddings=vectors).logits, read(model, prompt, mask).logits, atol=1e-5)


def test_the_prompt_is_read_once_and_shared_not_copied(llama, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = ids("causal", TEXTS[0])
    context = causal(llama, prompt[None], whole(prompt))
    many = context.select(torch.zeros(50, dtype=torch.long))
    assert many.rows == 50
    assert many.cache.layers[0].keys.data_ptr() == context.cache.layers[0].keys.data_ptr()
    read: list[int] = []
    forward = type(llama).forward
    monkeypatch.setattr(llama, "forward", lambda *a, **k: (read.append(k["input_ids"].numel()), forward(llama, *a, **k))[1])
    one = Context(llama, context.logits, context.cache, context.mask, None, context.prompt)
    continuations(one, (np.asarray([0, 3, 4, 8]), np.arange(8) + 10), rows=8)
    assert read == [6]  # two candidates are longer than a token: two rows of three, the longer one without its last token


def test_what_the_encoder_read_is_copied_only_when_prompts_move(t5) -> None:
    context = seq2seq(t5, *batch("seq2seq", TEXTS))
    beams = context.select(torch.tensor([0, 0, 1, 2, 2]))
    keys = [each.cache.cross_attention_cache.layers[0].keys for each in (context, beams)]
    assert torch.equal(keys[1], keys[0][[0, 0, 1, 2, 2]])
    swapped = beams.select(torch.tensor([1, 1, 2, 4, 3]))
    assert swapped.cache.cross_attention_cache.layers[0].keys.data_ptr() == keys[1].data_ptr()
    moved = beams.select(torch.tensor([1, 2, 2, 4, 3]))
    assert moved.prompt.tolist() == [0, 1, 1, 2, 2]
    assert torch.equal(moved.cache.cross_attention_cache.layers[0].keys, keys[0][[0, 1, 1, 2, 2]])
    assert torch.equal(moved.mask, context.mask[[0, 1, 1, 2, 2]])


def test_the_context_is_left_as_it_was(llama) -> None:
    prompt = ids("causal", TEXTS[0])
    context = causal(llama, prompt[None], whole(prompt))
    first = continuations(context, candidates("causal"))
    assert context.cache.get_seq_length() == len(prompt)
    assert np.array_equal(first.total, continuations(context, candidates("causal")).total)


def test_memory_bounds_the_rows_read_at_once(llama, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = ids("causal", TEXTS[0])
    context = causal(llama, prompt[None], whole(prompt))
    wanted = continuations(context, candidates("causal"))
    rows: list[int] = []
    read = Context.read
    monkeypatch.setattr(Context, "read", lambda self, t: (rows.append(len(t)), read(self, t))[1])
    found = continuations(context, candidates("causal"), memory=1)
    assert set(rows) == {1}
    assert np.abs(found.total - wanted.total).max() < 1e-4


def test_mutual_information_takes_the_prior_off() -> None:
    given_, prior = (Likelihoods(np.asarray(t), np.asarray([2, 3])) for t in ([-2.0, -6.0], [-1.0, -7.0]))
    assert given_.beyond(prior).tolist() == [-1.0, 1.0]
    with pytest.raises(ContractError, match="same candidates"):
        given_.beyond(Likelihoods(prior.total, np.asarray([2, 4])))


@pytest.mark.parametrize(
    ("offsets", "flat", "message"),
    [([0, 2, 2], [3, 4], "an empty one"), ([0], [], "an empty one"), ([0, 1], [9999], "token ids"), ([0, 1], [-1], "token ids")],
)
def test_candidates_that_cannot_be_read_are_refused(llama, offsets: list[int], flat: list[int], message: str) -> None:
    prompt = ids("causal", TEXTS[0])
    with pytest.raises(ContractError, match=message):
        continuations(causal(llama, prompt[None], whole(prompt)), (np.asarray(offsets), np.asarray(flat)))


def test_several_prompts_are_refused(llama) -> None:
    with pytest.raises(ContractError, match="context of one prompt"):
        continuations(causal(llama, *batch("causal", TEXTS)), candidates("causal"))


def test_prompts_that_cannot_be_read_are_refused(llama, t5) -> None:
    prompt, mask = batch("causal", TEXTS)
    with pytest.raises(ContractError, match="padded on the left"):
        causal(llama, prompt.flip(1), mask.flip(1))
    with pytest.raises(ContractError, match="mask of booleans"):
        causal(llama, prompt, mask.long())
    with pytest.raises(ContractError, match="ids or embeddings"):
        causal(llama, None, mask)
    with pytest.raises(ContractError, match="at least one token"):
        seq2seq(t5, prompt[:1], torch.zeros_like(mask[:1]))
    with pytest.raises(ContractError, match="encoder-decoder"):
        seq2seq(llama, prompt, mask)


def test_masked_words_are_those_of_the_whole_forward_pass() -> None:
    model, read = backbones.build("encoder", words=True), tokens("encoder")
    texts = [[read.cls, *read.encode(text), read.mask, read.sep] for text in TEXTS]
    width = max(map(len, texts))
    padded = torch.tensor([[*row, *[read.pad] * (width - len(row))] for row in texts])
    places = torch.tensor([[row, len(text) - 2] for row, text in enumerate(texts)])
    found = masked(model, padded, padded != read.pad, places)
    for row, text in enumerate(texts):
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([text])).logits[0, -2].log_softmax(dim=0)
        assert torch.allclose(found[row], wanted, atol=1e-4)


# -- beams ----------------------------------------------------------------------------------------------------------------------


def widened(model, size: int):
    """Rows for the words of an index, drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model.resize_token_embeddings(size, mean_resizing=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[-20:].normal_(0, 0.5)
    return model


INDEXERS = [Title(), Random(length=3), Quantised(levels=2, codes=3)]


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("indexer", INDEXERS, ids=repr)
@pytest.mark.parametrize("family", ["causal", "seq2seq"])
def test_a_wide_beam_is_the_ranking_of_all_items(family: str, indexer, power: float) -> None:
    train = tiny.split().train
    table = np.random.default_rng(0).normal(size=(13, 4)).astype(np.float32)
    index = indexer.fit(train, tokens=tokens(family), vectors=table)
    model = widened(backbones.build(family, words=True), index.size)
    read, alone = (causal, alone_causal) if family == "causal" else (seq2seq, alone_seq2seq)
    found = beam(ModelSteps(read(model, *batch(family, TEXTS))), index.trie, k=13, length_power=power)
    codes = [torch.from_numpy(index.code(item)).long() for item in range(13)]
    for row, text in enumerate(TEXTS):
        scores = alone(model, ids(family, text), codes) / np.asarray([len(code) for code in codes]) ** power
        order = np.argsort(-scores, kind="stable")
        assert found.items[row].tolist() == order.tolist()
        assert np.abs(found.scores[row] - scores[order]).max() < 1e-4


class TableSteps:
    """A language model that looks at the context and the last two tokens only: its logits are a table."""

    def __init__(self, table: np.ndarray, start: np.ndarray) -> None:
        self.table, self.start, self.last = table, start, None

    def first(self) -> torch.Tensor:
        return torch.from_numpy(self.start).log_softmax(dim=1)

    def next(self, parents: np.ndarray, tokens: np.ndarray) -> torch.Tensor:
        before = np.zeros(len(parents), np.int64) if self.last is None else self.last[parents]
        row = parents if self.last is None else self.row[parents]
        self.last, self.row = tokens, row
        return torch.from_numpy(self.table[before, tokens] + self.start[row]).log_softmax(dim=1)

    def score(self, row: int, code: tuple[int, ...]) -> float:
        total, before, logits = 0.0, 0, self.start[row]
        for token in code:
            total += float(logits[token] - np.log(np.exp(logits).sum()))
            before, logits = token, self.table[before, token] + self.start[row]
        return total


W = 6
codes_of = st.lists(st.lists(st.integers(0, W - 2), max_size=3).map(lambda c: (*c, W - 1)), min_size=1, max_size=15, unique=True)


def search(codes: list[tuple[int, ...]], seed: int) -> tuple[TableSteps, Trie, np.random.Generator]:
    rng = np.random.default_rng(seed)
    steps = TableSteps(rng.normal(size=(W, W, W)) * 2, rng.normal(size=(3, W)))
    flat = np.asarray([token for code in codes for token in code], np.int64)
    return steps, Trie.build(np.cumsum([0, *map(len, codes)]), flat), rng


@given(codes_of, st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([0.0, 0.5, 1.0]))
@settings(max_examples=60)
def test_a_beam_that_holds_every_node_is_exact(codes: list[tuple[int, ...]], seed: int, k: int, power: float) -> None:
    """Also where few are asked for: what is dropped on the way could not have come among them."""
    steps, trie, rng = search(codes, seed)
    allowed = rng.random((3, len(codes))) < 0.7
    found = beam(steps, trie, k=k, width=max(k, trie.n_nodes), allowed=allowed, length_power=power)
    for row in range(3):
        scores = np.asarray([steps.score(row, code) / len(code) ** power for code in codes])
        scores[~allowed[row]] = -np.inf
        order = [item for item in np.argsort(-scores, kind="stable").tolist() if allowed[row, item]][:k]
        assert found.items[row].tolist() == order + [-1] * (k - len(order))
        assert np.allclose(found.scores[row, : len(order)], scores[order], atol=1e-5)
        assert (found.scores[row, len(order) :] == -np.inf).all()


@given(codes_of, st.integers(0, 10**6), st.integers(1, 6))
@settings(max_examples=40)
def test_a_narrow_beam_gives_as_many_allowed_items_as_there_are_each_once_with_its_score(codes, seed: int, k: int) -> None:
    steps, trie, rng = search(codes, seed)
    allowed = rng.random(len(codes)) < 0.6
    found = beam(steps, trie, k=k, allowed=allowed)
    for row in range(3):
        items = found.items[row][found.items[row] >= 0].tolist()
        assert len(items) == min(k, int(allowed.sum()))
        assert len(set(items)) == len(items)
        assert allowed[items].all()
        assert np.allclose(found.scores[row][: len(items)], [steps.score(row, codes[item]) for item in items], atol=1e-5)
        assert (np.diff(found.scores[row][: len(items)]) <= 0).all()


def test_equal_scores_take_the_earlier_path() -> None:
    """With all the same, a model has no opinion: no more than k come, each once."""
    codes = [(a, b, W - 1) for a in range(3) for b in range(3)]
    steps, trie, _ = search(codes, 0)
    steps.table[:], steps.start[:] = 0, 0
    assert beam(steps, trie, k=4).items.tolist() == [[0, 1, 2, 3]] * 3


def test_a_token_that_the_model_forbids_is_not_taken() -> None:
    steps, trie, _ = search([(0, 5), (1, 5)], 1)
    steps.start[:, 1] = -np.inf
    assert beam(steps, trie, k=2).items.tolist() == [[0, -1]] * 3


def test_beams_refuse_what_they_cannot_do() -> None:
    steps, trie, _ = search([(0, 5), (1, 5)], 1)
    with pytest.raises(ContractError, match="width >= k"):
        beam(steps, trie, k=3, width=2)
    with pytest.raises(ContractError, match=r"allowed as booleans of shape \(2,\) or \(3, 2\)"):
        beam(steps, trie, k=1, allowed=np.ones(3, bool))
    with pytest.raises(ContractError, match="a model of at least 6 tokens"):
        beam(TableSteps(steps.table[:, :, :5], steps.start[:, :5]), trie, k=1)
    steps.start[0, 0] = np.nan
    with pytest.raises(ContractError, match="NaN"):
        beam(steps, trie, k=1)
