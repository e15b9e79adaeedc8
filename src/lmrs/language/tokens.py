"""Text to token ids and back, so that text can never become markup.

A tokenizer file names tokens that mean something to the model: the end of a text, a mask, a turn of a chat. Left alone, a
title that spells one of them gives that very token. `Tokens` therefore keeps two readers of the same vocabulary: one for data,
in which those tokens cannot be spelt, and the file's own, used when markup is asked for by name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from lmrs.errors import CheckpointError, ContractError, did_you_mean
from lmrs.language.cleaning import clean

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_UNSPELT = "\x00"  # stands before tokens of meaning in the reader of data: `clean` leaves no such character in a text


@dataclass(frozen=True, eq=False)
class Tokens:
    """A token vocabulary of W words; `tokens_of` makes one.

    size: W, the number of embedding rows that the ids need. pad, bos, eos, mask, sep, cls, unk: ids, None where the model has
    no such token. marks: every token of meaning with its id. words: what `extended` added, numbered size - len(words) onwards.
    chat: the file's chat template (Jinja text), or None.
    """

    size: int
    pad: int | None
    bos: int | None
    eos: int | None
    mask: int | None
    sep: int | None
    cls: int | None
    unk: int | None
    marks: dict[str, int] = field(repr=False)
    chat: str | None = field(repr=False)
    words: tuple[str, ...] = field(repr=False)
    _data: Tokenizer = field(repr=False)
    _file: Tokenizer = field(repr=False)

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Token ids of a text, with nothing put before or after it.

        A text is data: characters that nobody sees are dropped (`cleaning.clean`) and no token of meaning comes of it, however it
        is spelt; what the vocabulary cannot write becomes `unk`. control: the text is the program's own, and tokens of meaning
        (`marks`, `words`) are read in it.
        """
        if not control:
            return self._data.encode(clean(text), add_special_tokens=False).ids
        found: list[int] = []
        for at, piece in enumerate(self._words.split(text)):
            if at % 2:
                found.append(self._numbers[piece])
            elif piece:
                found += self._file.encode(clean(piece), add_special_tokens=False).ids
        return found

    def batch(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(ids int64[N], offsets int64[n + 1]): the ids of text i are ids[offsets[i]:offsets[i + 1]]; the rule of `encode`."""
        read = self._data.encode_batch_fast([clean(text) for text in texts], add_special_tokens=False)
        rows = [each.ids for each in read]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        ids = np.fromiter((token for row in rows for token in row), dtype=np.int64, count=int(offsets[-1]))
        return ids, offsets

    def decode(self, ids: Iterable[int], *, control: bool = False) -> str:
        """The text of some ids. control: write tokens of meaning as they are spelt; otherwise they are left out.

        Words of `extended` are always written. Raises ContractError for an id outside 0..size-1.
        """
        first = self.size - len(self.words)
        parts: list[str] = []
        run: list[int] = []

        def flush() -> None:
            if run:
                parts.append(self._file.decode(run, skip_special_tokens=not control))
                run.clear()

        for token in map(int, ids):
            if not 0 <= token < self.size:
                raise ContractError(needed=f"token ids from 0 to {self.size - 1}", came=str(token))
            if token < first:
                run.append(token)
            else:
                flush()
                parts.append(self.words[token - first])
        flush()
        return "".join(parts)

    def id(self, word: str) -> int:
        """The id of a token of meaning (`marks`) or of an added word, by its spelling.

        Raises ContractError with the nearest ones if there is none such.
        """
        if word in self._numbers:
            return self._numbers[word]
        if word in self.marks:
            return self.marks[word]
        known = [*self.marks, *self.words]
        raise ContractError(
            needed=f"a control token of this backbone, or one added with extended(({word!r},))",
            came=repr(word),
            remedy=did_you_mean(word, known) if known else "",
        )

    def extended(self, words: tuple[str, ...]) -> Tokens:
        """The same vocabulary with new atomic tokens, numbered size, size + 1, ...; texts cannot produce them.

        Raises ContractError for a word that is empty, that is there already or that comes twice.
        """
        taken = set(self.marks) | set(self.words)
        for word in words:
            if not word or word in taken:
                why = "an empty word" if not word else f"{word!r}, which is there already"
                raise ContractError(needed="new words, each once", came=why, remedy="choose another spelling")
            taken.add(word)
        values = {each: getattr(self, each) for each in self.__dataclass_fields__}
        return Tokens(**{**values, "size": self.size + len(words), "words": self.words + tuple(words)})

    @cached_property
    def _numbers(self) -> dict[str, int]:
        first = self.size - len(self.words)
        return {word: first + at for at, word in enumerate(self.words)}

    @cached_property
    def _words(self) -> re.Pattern[str]:
        longest = sorted(self.words, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest))})" if longest else r"((?!))")


def tokens_of(fast: PreTrainedTokenizerBase) -> Tokens:
    """The Tokens of a fast tokenizer of the transformers package.

    Raises CheckpointError for one without a `tokenizers` engine (a slow one).
    """
    from tokenizers import Tokenizer

    engine = getattr(fast, "backend_tokenizer", None)
    if not isinstance(engine, Tokenizer):
        raise CheckpointError(
            needed="a fast tokenizer (tokenizer.json)", came=type(fast).__name__, remedy="save it with save_pretrained"
        )
    text = engine.to_str()
    # Added tokens that are white space alone mark nothing: they are ways to write a text and stay readable as such.
    marks = {
        each["content"]: each["id"]
        for each in json.loads(text)["added_tokens"]
        if each["special"] or each["content"].strip() or not each["content"]
    }
    for name in fast.all_special_tokens:
        marks.setdefault(str(name), fast.get_vocab()[str(name)])
    whole = Tokenizer.from_str(text)
    whole.no_truncation()
    whole.no_padding()
    ids = engine.get_vocab(with_added_tokens=True).values()
    return Tokens(
        size=max(ids) + 1,
        pad=fast.pad_token_id,
        bos=fast.bos_token_id,
        eos=fast.eos_token_id,
        mask=fast.mask_token_id,
        sep=fast.sep_token_id,
        cls=fast.cls_token_id,
        unk=fast.unk_token_id,
        marks=dict(sorted(marks.items(), key=lambda each: each[1])),
        chat=fast.chat_template if isinstance(fast.chat_template, str) else None,
        words=(),
        _data=_unspelt(json.loads(text), set(marks)),
        _file=whole,
    )


def _unspelt(whole: dict[str, Any], marks: set[str]) -> Tokenizer:
    """The engine in which no text can spell a mark: the vocabulary and the added tokens write them otherwise.

    Leaving them out of the added tokens is not enough: a unigram vocabulary has pieces such as "</s>" of its own, and a BPE
    that takes whole words first would find "<|end|>" among them. It would also number the other added tokens anew.
    """
    from tokenizers import Tokenizer

    whole = dict(whole, truncation=None, padding=None, post_processor=None)

    def spelt(word: str) -> str:
        return _UNSPELT + word if word in marks else word

    # "normalized" would run the spelling through the normaliser, and some of those drop the character that keeps it apart.
    whole["added_tokens"] = [
        {**each, "content": spelt(each["content"]), "normalized": each["normalized"] and each["content"] not in marks}
        for each in whole["added_tokens"]
    ]
    model = whole["model"]
    vocab = model["vocab"]
    if isinstance(vocab, dict):
        model["vocab"] = {spelt(word): number for word, number in vocab.items()}
    else:  # unigram: pairs (piece, log-probability), by id
        model["vocab"] = [[spelt(piece), score] for piece, score in vocab]
    if isinstance(model.get("unk_token"), str):
        model["unk_token"] = spelt(model["unk_token"])
    if model.get("merges"):
        model["merges"] = [pair for pair in model["merges"] if not marks & {_joined(pair), *_halves(pair)}]
    return Tokenizer.from_str(json.dumps(whole))


def _halves(pair: str | list[str]) -> list[str]:
    return pair.split(" ", 1) if isinstance(pair, str) else pair


def _joined(pair: str | list[str]) -> str:
    return "".join(_halves(pair))
