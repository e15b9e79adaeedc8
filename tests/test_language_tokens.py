"""Texts are data: however a title is spelt, no token of meaning comes of it, and what a model reads is what people see."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers")

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lmrs.errors import ContractError
from lmrs.language import Backbone
from lmrs.language.cleaning import clean
from lmrs.language.tokens import Tokens, tokens_of

TINY = ("tiny-encoder", "tiny-causal", "tiny-seq2seq")
PLANTED = (
    *("[MASK]", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin|>", "<|pad|>"),
    *("</s>", "<pad>", "<unk>", "<extra_id_0>", "<item_1>", "<|im_", "start|>", "[MA", "SK]", "\x00", "\u200b", "\u202e"),
    *("\ud800", "\ue000", "\ufeff", "Toy Story (1995)", " yes", "{history}", "\n"),
)
hostile = st.lists(st.one_of(st.sampled_from(PLANTED), st.text(st.characters(), max_size=5)), max_size=8).map("".join)


def specials(tokens: Tokens) -> set[int]:
    return set(tokens.marks.values()) - {tokens.unk}


# -- what is read of a text ------------------------------------------------------------------------------------------------


@given(hostile)
def test_cleaning_is_idempotent_and_leaves_nothing_invisible(text: str) -> None:
    cleaned = clean(text)
    assert clean(cleaned) == cleaned
    cleaned.encode("utf-8")
    for character in cleaned:
        assert unicodedata.category(character) not in ("Cf", "Cs", "Co", "Zl", "Zp")
        assert unicodedata.category(character) != "Cc" or character in "\t\n\r"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Am\u00e9lie \u2014 \u6f22\u5b57 \U0001f3ac", "Am\u00e9lie \u2014 \u6f22\u5b57 \U0001f3ac"),
        ("Toy\u200b Sto\u00adry", "Toy Story"),
        ("a\u202eb\u2066c\u2069", "abc"),
        ("a\x00b\x1b[0m\x85", "ab[0m"),
        ("a\tb\r\nc", "a\tb\r\nc"),
        ("x\ud800y\ue000z\uffff", "x\ufffdy\ufffdz\ufffd"),
        ("one\u2028two\u2029", "one\ntwo\n"),
        ("hi\U000e0041\U000e0100\ufe0f\u3164", "hi"),
    ],
)
def test_what_a_model_reads(text: str, read: str) -> None:
    assert clean(text) == read


# -- no markup out of data -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TINY)
@given(text=hostile)
def test_no_text_gives_a_token_of_meaning(name: str, text: str) -> None:
    tokens = Backbone(name).tokenizer().extended(("<item_1>", "<item_12>"))
    ids = tokens.encode(text)
    assert not set(ids) & specials(tokens)
    assert all(0 <= token < tokens.size - 2 for token in ids)
    assert tokens.decode(ids) == clean(text)  # bytes and whole words: nothing is lost
    flat, offsets = tokens.batch(["", text, "yes"])
    assert flat.dtype == offsets.dtype == np.int64
    assert offsets[0] == offsets[1] == 0
    assert flat[offsets[1] : offsets[2]].tolist() == ids


def engine(model: models.Model, *, special: tuple[str, ...], plain: tuple[str, ...] = ()) -> Tokenizer:
    made: Tokenizer = Tokenizer(model)
    made.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in special])
    made.add_tokens([AddedToken(each, special=False, normalized=False) for each in plain])
    return made


def unigram() -> PreTrainedTokenizerFast:
    """As T5's: the vocabulary itself has the pieces "</s>" and "<pad>"."""
    letters = [(letter, -9.0) for letter in sorted(set("abcdefghi </s>padunkmor="))]
    made = engine(models.Unigram([("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *letters], unk_id=2), special=("</s>", "<pad>"))
    made.normalizer = normalizers.NFKC()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def merging() -> PreTrainedTokenizerFast:
    """A BPE whose merges lead to a mark, and with a mark that is not called special."""
    letters = {letter: at for at, letter in enumerate("<|end>atur ")}
    steps = [("<", "|"), ("<|", "e"), ("<|e", "n"), ("<|en", "d"), ("<|end", "|"), ("<|end|", ">")]
    for pair in steps:
        letters["".join(pair)] = len(letters)
    made = engine(models.BPE(vocab=letters, merges=steps), special=("<|end|>",), plain=("<turn>", "  "))
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>")


def whole_words() -> PreTrainedTokenizerFast:
    """A word-level vocabulary that holds its marks as words, split at spaces."""
    vocab = {"[UNK]": 0, "[MASK]": 1, "[SEP]": 2, "film": 3}
    made = engine(models.WordLevel(vocab, unk_token="[UNK]"), special=("[MASK]", "[SEP]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", mask_token="[MASK]", sep_token="[SEP]")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (unigram, "a</s>b<pad>"),
        (unigram, "\uff1c/s\uff1e"),  # full-width signs, which the normaliser turns into "</s>"
        (merging, "<|end|>a<turn>a"),
        (whole_words, "film [MASK] [SEP] film"),
    ],
)
def test_marks_in_the_vocabulary_itself_cannot_be_spelt(make, text: str) -> None:
    fast = make()
    tokens = tokens_of(fast)
    assert set(fast(text, add_special_tokens=False)["input_ids"]) & specials(tokens), "the file's own reader falls for it"
    assert not set(tokens.encode(text)) & specials(tokens)
    assert not set(tokens.batch([text])[0].tolist()) & specials(tokens)


def test_ordinary_text_is_read_as_the_file_reads_it() -> None:
    for make, text in ((unigram, "a bad cab"), (merging, "at  turn<|en"), (whole_words, "film novel film")):
        fast = make()
        assert tokens_of(fast).size == len(fast)
        assert tokens_of(fast).encode(text) == fast(text, add_special_tokens=False)["input_ids"]


def test_truncation_and_padding_of_the_file_are_not_applied() -> None:
    fast = whole_words()
    fast.backend_tokenizer.enable_truncation(2)
    fast.backend_tokenizer.enable_padding(length=5)
    tokens = tokens_of(fast)
    assert tokens.encode("film " * 9) == [3] * 9
    assert tokens.encode("film " * 9, control=True) == [3] * 9
    assert tokens.batch(["film", "film film"])[1].tolist() == [0, 1, 3]


# -- markup, asked for -----------------------------------------------------------------------------------------------------


def test_control_text_reads_marks_and_added_words() -> None:
    tokens = Backbone("tiny-encoder").tokenizer().extended(("<item_1>", "<item_12>"))
    assert tokens.encode("[MASK]yes<item_12><item_1>", control=True) == [
        3,
        tokens.encode("yes")[0],
        tokens.size - 1,
        tokens.size - 2,
    ]
    assert tokens.id("[MASK]") == tokens.mask == 3
    assert tokens.id("<item_12>") == tokens.size - 1
    with pytest.raises(ContractError, match=r"got '\[MSK\]'; did you mean \[MASK\]"):
        tokens.id("[MSK]")


def test_added_words_are_numbered_from_the_size_on() -> None:
    tokens = Backbone("tiny-causal").tokenizer()
    more = tokens.extended(("<a>", "<b>")).extended(("<c>",))
    assert more.size == tokens.size + 3
    assert [more.id(word) for word in ("<a>", "<b>", "<c>")] == [tokens.size, tokens.size + 1, tokens.size + 2]
    assert more.decode([*more.encode("yes "), tokens.size + 2, *more.encode("no")]) == "yes <c>no"
    assert tokens.words == ()


@pytest.mark.parametrize("words", [("",), ("<a>", "<a>"), ("<|endoftext|>",)])
def test_words_that_cannot_be_added(words: tuple[str, ...]) -> None:
    with pytest.raises(ContractError, match="new words, each once"):
        Backbone("tiny-causal").tokenizer().extended(words)


def test_decoding_leaves_marks_out_unless_asked() -> None:
    tokens = Backbone("tiny-seq2seq").tokenizer()
    ids = [*tokens.encode("good movie"), tokens.eos, tokens.pad]
    assert tokens.decode(ids) == "good movie"
    assert tokens.decode(ids, control=True) == "good movie</s><pad>"
    for wrong in (-1, tokens.size):
        with pytest.raises(ContractError, match=f"token ids from 0 to {tokens.size - 1}, got {wrong}"):
            tokens.decode([wrong])


@pytest.mark.parametrize("name", TINY)
def test_common_words_are_one_token(name: str) -> None:
    tokens = Backbone(name).tokenizer()
    for word in ("yes", " yes", "no", " good", " terrible", "The"):
        assert len(tokens.encode(word)) == 1
    assert len(tokens.encode("qq")) == 2
    marks = json.loads(json.dumps(tokens.marks))
    assert len(set(marks.values())) == len(marks)
