"""A saved transformer over item ids that answers by NumPy alone: a process that answers one question need not import torch."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lmrs.columns import PART, Texts, fingerprint, mapped, numbers
from lmrs.errors import UserError
from lmrs.folder import ITEMS, MODEL, TENSORS, VOCAB, bad, verify
from lmrs.order import priority, refuse
from lmrs.recommendations import FALLBACK, Recommendations, as_texts, check_count, check_histories, unknown_of

# Fields of the classes that model.json names. One that is not here could mean anything, so such a model is left to torch.
_MODEL = {
    "dim", "layers", "heads", "max_len", "dropout", "attention_dropout", "block", "align", "scale", "embed_norm", "tied", "bias",
    "transform", "positions", "features", "item_dim",
}  # fmt: skip
_VIEW = {"max_len", "stride", "jitter", "prefixes", "once"}
_BLOCKS = {"models.PostNorm": {"expand"}, "models.PreNorm": {"expand"}, "models.QueryNorm": set(), "models.Gated": {"expand"}}
_ADDED = {"objectives.NextItem": 0, "objectives.Cloze": 1}  # masks that each appends to a history to ask for the next item
_GROUPS = 4096  # of items: to sort out the largest scores among their maxima takes far less time than among all
_NEAR = 1e-4  # scores closer to the last one of the list than this share are computed again, each item by itself

_NEEDED = "a recommender of this version of lmrs"
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OSError)  # what reading raises then


@dataclass(frozen=True, eq=False)
class QuickRecommender:
    """A saved recommender that starts in a fraction of the time and gives the answers of `Recommender`, one history at a time.

    It reads systems whose model is models.Transformer without features and item_dim, and that are asked for the next item by
    objectives.NextItem or objectives.Cloze: sasrec, bert4rec, esasrec and what is like them.
    vocab: what is known of the items. name: for reports. max_len: positions of a history that are read, masks included. notes:
    empty, for what such a system is made of cannot change.
    """

    vocab: Catalogue
    name: str
    max_len: int
    network: _Network
    added: int

    notes = ()

    @classmethod
    def load(cls, folder: Path | str) -> QuickRecommender:
        """Reads what `Recommender.save` wrote, checked like there; the weights stay in their file, which is mapped.

        Raises CheckpointError, naming the file, if one is missing, cut, changed or does not belong to the others, and UserError
        for a system of another kind.
        """
        folder = Path(folder)
        try:
            about = json.loads((folder / MODEL).read_bytes())
            view, model, added = _readable(about)  # first: what cannot be answered here need not be read
        except _DAMAGE as error:
            verify(folder, by="CRC-32")
            raise bad(folder / MODEL, _NEEDED, f"{type(error).__name__} {error}") from error
        verify(folder, by="CRC-32")
        try:
            vocab = Catalogue.read(folder, about)
            network = _Network(model, _tensors(folder / TENSORS, _shapes(model, vocab.n_items)), causal=not added)
            return cls(vocab, about["name"], view["max_len"], network, added)
        except _DAMAGE as error:
            raise bad(folder / MODEL, _NEEDED, f"{type(error).__name__} {error}") from error

    def recommend(
        self,
        history: Sequence[str | int],
        *,
        k: int = 10,
        exclude: Iterable[str | int] = (),
        exclude_seen: bool = True,
    ) -> Recommendations:
        """The k best items for one history, as of `Recommender.recommend` (scores within rounding).

        history: item ids, oldest first; of a long one the newest count. Unknown ids are ignored, and named.
        exclude: ids that must not come. exclude_seen: leave out the items of the whole history.
        Raises UserError for k < 1 and for ids that are neither text nor whole numbers.
        """
        check_count(k)
        check_histories([history])
        banned_ids, asked = as_texts(exclude), as_texts(history)
        banned, numbers = self.vocab.item_numbers(banned_ids), self.vocab.item_numbers(asked)
        known = numbers[numbers >= 0]
        read = known[max(0, len(known) - (self.max_len - self.added)) :]
        best, scores = self._best(read, banned[banned >= 0], known if exclude_seen else known[:0], k)
        return Recommendations(
            tuple(self.vocab.item_ids(best)),
            tuple(self.vocab.titles(best)),
            tuple(scores.tolist()),
            unknown=tuple(dict.fromkeys(unknown_of(asked, numbers))),
            unknown_excluded=unknown_of(banned_ids, banned),
            fallback="" if len(known) else FALLBACK,
        )

    def _best(self, read: np.ndarray, banned: np.ndarray, seen: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(item numbers, float32 scores), best first, for the history `read`; items `banned` and `seen` are not offered.

        Raises DivergedError if a score, of `seen` too, is NaN or +inf.
        """
        n, state = self.vocab.n_items, None
        if len(read):
            symbols = np.append(read, n) if self.added else read
            with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is refused below
                state = self.network.state(symbols)
                scores = self.network.scores(state, slice(n))
        else:
            scores = np.zeros(n, np.float32) if self.vocab.counts is None else self.vocab.counts.astype(np.float32)
        scores[banned] = -np.inf
        top = scores.max(initial=-np.inf)
        if not top < np.inf:  # True for NaN as well
            odd = int(np.flatnonzero(~(scores < np.inf))[0])
            refuse(0, odd, float(scores[odd]))
        scores[seen] = -np.inf
        least = _least(scores, k)
        near = np.flatnonzero((scores > -np.inf) & (scores >= least - _NEAR * max(abs(top), abs(least))))
        # A product with the whole table adds up each row in an order that depends on its place: equal items would not be equal.
        exact = scores[near] if state is None else self.network.scores(state, near)
        order = np.lexsort((~priority(0, np.zeros(1, np.int64), near), -exact))[:k]
        return near[order], exact[order]


def _least(scores: np.ndarray, k: int) -> np.float32:
    """A number that at least k of the scores reach, or all, and hardly more: of long ones the k-th largest maximum of groups."""
    n = len(scores)
    if n >= 8 * _GROUPS and k <= _GROUPS // 8:
        scores, n = scores[: n - n % _GROUPS].reshape(-1, _GROUPS).max(axis=0), _GROUPS
    place = max(0, n - k)
    return np.partition(scores, place)[place]


@dataclass(frozen=True, eq=False)
class Catalogue:
    """What a saved recommender knows of its V items, without Arrow; asked as a Vocab is.

    ids: in the order of their numbers. named: their titles, or None where the catalogue has none. counts: int64[V] training
    events, or None.
    """

    ids: Texts
    named: Texts | None
    counts: np.ndarray | None

    @property
    def n_items(self) -> int:
        return len(self.ids)

    def item_numbers(self, ids: list[str]) -> np.ndarray:
        """int64 numbers of the given item ids; -1 for ids that are not in the catalogue."""
        return self.ids.find(ids)

    def item_ids(self, numbers: np.ndarray) -> list[str]:
        """The ids of the given item numbers (each 0..V-1)."""
        return [str(each) for each in self.ids.take(numbers)]

    def titles(self, numbers: np.ndarray) -> list[str]:
        """Display names of items, by number: the title where the catalogue has one, else the id."""
        ids = self.item_ids(numbers)
        return ids if self.named is None else [title or key for title, key in zip(self.named.take(numbers), ids, strict=True)]

    @classmethod
    def read(cls, folder: Path, about: Mapping[str, Any]) -> Catalogue:
        """What a verified folder has, checked as in folder.read_vocab. about: what model.json holds.

        Raises CheckpointError if the files do not belong to each other, UserError if they cannot be read without Arrow.
        """
        columns = about.get("columns")
        if columns is None or any(place is None for name in (VOCAB, ITEMS) for place in columns[name].values()):
            raise _another("columns that cannot be read without Arrow")
        vocab, items = mapped(folder / VOCAB), mapped(folder / ITEMS)
        ids, told = Texts.at(vocab, columns[VOCAB]["item_id"]), about["vocab"]["fingerprint"]
        parts = (ids.ends[begin : begin + PART + 1] for begin in range(0, len(ids), PART))
        if fingerprint((ends, ids.raw) for ends in parts) != told:
            raise bad(folder / VOCAB, "the vocabulary that the model was trained with", "another one")
        if not ids.same(Texts.at(items, columns[ITEMS]["item_id"])):
            raise bad(folder / ITEMS, "the catalogue of the model's vocabulary", "another one")
        titles, counts = columns[ITEMS].get("title"), columns[VOCAB].get("count")
        return cls(ids, titles and Texts.at(items, titles), None if counts is None else numbers(vocab, counts))


class _Network:
    """The forward pass of `models.transformer.TransformerNetwork` for one row, at its last position.

    model: fields of models.Transformer. tensors: float32, by the names that torch's modules give them.
    """

    def __init__(self, model: Mapping[str, Any], tensors: Mapping[str, np.ndarray], *, causal: bool) -> None:
        self.model, self.tensors, self.causal = model, tensors, causal
        self.dim, self.block = model["dim"], model["block"]["kind"]
        self.table = tensors["items.weight" if model["tied"] else "table.weight"]

    def state(self, symbols: np.ndarray) -> np.ndarray:
        """[D]: what follows int64[T] symbols, 1 <= T <= max_len, as a vector of the item space."""
        model, x = self.model, self.tensors["items.weight"][symbols]
        if model["scale"]:
            x = x * np.float32(math.sqrt(self.dim))
        if model["positions"]:
            begin = 0 if model["align"] == "left" else model["max_len"] - len(symbols)
            x = x + self.tensors["positions.weight"][begin : begin + len(symbols)]
        if model["embed_norm"]:
            x = self._norm("embed_norm", x)
        for layer in range(model["layers"]):
            x = self._layer(f"blocks.{layer}.", x, x[-1:] if layer == model["layers"] - 1 else x)
        if self.block != "models.PostNorm":
            x = self._norm("final_norm", x)
        if model["transform"]:
            x = self._norm("transform.2", _gelu(self._linear("transform.0", x)))
        return x[0]

    def scores(self, state: np.ndarray, items: slice | np.ndarray) -> np.ndarray:
        """float32 of some items: a slice by one product, int64 numbers each by itself, alike wherever it stands in the table."""
        rows = self.table[items]
        found = rows @ state if isinstance(items, slice) else np.einsum("ve,e->v", rows, state)
        return found + self.tensors["item_bias"][items] if self.model["bias"] else found

    def _layer(self, name: str, x: np.ndarray, asking: np.ndarray) -> np.ndarray:
        """[M, D]: a block at the last M positions `asking` of x [N, D]; M is N or 1."""
        norm, linear = (lambda part, y: self._norm(name + part, y)), (lambda part, y: self._linear(name + part, y))
        match self.block:
            case "models.PostNorm":
                y = norm("norm_attention", asking + self._attention(name, asking, x))
                return norm("norm_feed", y + linear("down", _gelu(linear("up", y))))
            case "models.PreNorm":
                seen = norm("norm_attention", x)
                y = asking + self._attention(name, seen[-len(asking) :], seen)
                return y + linear("down", _gelu(linear("up", norm("norm_feed", y))))
            case "models.QueryNorm":
                query = norm("norm_attention", asking)
                y = norm("norm_feed", query + self._attention(name, query, x))
                return y + linear("down", np.maximum(linear("up", y), 0))
            case _:
                seen = norm("norm_attention", x)
                told = self._attention(name, seen[-len(asking) :], seen)
                y = asking + told * _sigmoid(linear("gate_attention", asking))
                left, right = np.split(linear("up", norm("norm_feed", y)), 2, axis=1)
                return y + linear("down", left * _sigmoid(left) * right) * _sigmoid(linear("gate_feed", y))

    def _attention(self, name: str, asks: np.ndarray, seen: np.ndarray) -> np.ndarray:
        """[M, D]: the last M positions, whose queries come from `asks` [M, D], over `seen` [N, D]; M is N or 1."""
        width, heads = self.dim, self.model["heads"]
        weight, bias = self.tensors[f"{name}mix.weight"], self.tensors[f"{name}mix.bias"]
        query = asks @ weight[:width].T + bias[:width]
        pairs = seen @ weight[width:].T + bias[width:]
        query = query.reshape(len(asks), heads, width // heads).transpose(1, 0, 2)
        key, value = pairs.reshape(len(seen), 2, heads, width // heads).transpose(1, 2, 0, 3)
        logits = query @ key.transpose(0, 2, 1) / np.float32(math.sqrt(width // heads))  # [H, M, N]
        if self.causal and len(asks) > 1:  # one alone is the last, which sees all
            logits[:, np.triu(np.ones((len(asks), len(seen)), bool), 1)] = -np.inf
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        told = weights @ value / weights.sum(axis=2, keepdims=True)
        return self._linear(f"{name}out", told.transpose(1, 0, 2).reshape(len(asks), width))

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        found, bias = x @ self.tensors[f"{name}.weight"].T, self.tensors.get(f"{name}.bias")
        return found if bias is None else found + bias

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """LayerNorm over the last axis, with 1e-5 added to the variance."""
        centred = x - x.mean(axis=1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(axis=1, keepdims=True) + np.float32(1e-5))
        return centred / spread * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]


def _gelu(x: np.ndarray) -> np.ndarray:
    """x times the share of a normal distribution below it."""
    below = np.fromiter(map(math.erf, (x.ravel() * math.sqrt(0.5)).tolist()), np.float32, x.size)  # NumPy has no erf
    return x * (0.5 + 0.5 * below.reshape(x.shape))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(0.5 * x)  # cannot overflow


def _readable(about: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any], int]:
    """(fields of the view, fields of the model, masks added) of what model.json holds. Raises UserError for another system."""
    model, task = about["system"]["model"], about["system"]["task"]
    objective = about["system"]["stages"][-1].get("objective", {}).get("kind")
    view, block = task.get("view", {}), model.get("block", {})
    for fits, came in (
        (not about["code"], "parts in a file of your own"),
        (model["kind"] == "models.Transformer", f"the model {model['kind']}"),
        (block.get("kind") in _BLOCKS, f"the block {block.get('kind')}"),
        (task["kind"] == "tasks.Ranking", f"the task {task['kind']}"),
        (view.get("kind") == "views.ItemSequence", f"the view {view.get('kind')}"),
        (objective in _ADDED, f"the objective {objective}"),
        (model.get("features") is None, "a model with features"),
        (model.get("item_dim") is None, "a model with item_dim"),
    ):
        if not fits:
            raise _another(came)
    for part, fields in ((model, _MODEL), (view, _VIEW), (block, _BLOCKS[block["kind"]])):
        if part.keys() != fields | {"kind"}:
            raise _another(f"{part['kind']} with the fields {', '.join(sorted(part.keys() - {'kind'}))}")
    return view, model, _ADDED[str(objective)]


def _another(came: str) -> UserError:
    return UserError(
        needed="a system that ranks items by models.Transformer over ids alone, with objectives.NextItem or objectives.Cloze",
        came=came,
        remedy="load it with Recommender.load",
    )


def _tensors(file: Path, shapes: Mapping[str, list[int]]) -> dict[str, np.ndarray]:
    """The float32 tensors of a safetensors file, in the mapped file. Raises CheckpointError unless they have just these shapes.

    The format: eight bytes with the length of a JSON header, the header, the numbers (github.com/huggingface/safetensors).
    """
    with open(file, "rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
        content = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    found = {}
    for name in sorted(shapes.keys() | header.keys()):
        told = header.get(name, {})
        needed, came = shapes.get(name, "none"), told.get("shape", "none")
        if needed != came:
            raise bad(file, f"the tensor {name!r} of shape {needed}", f"{came}")
        if told["dtype"] != "F32":
            raise bad(file, f"the tensor {name!r} as F32", told["dtype"])
        place = 8 + size + told["data_offsets"][0]
        found[name] = np.frombuffer(content, "<f4", math.prod(told["shape"]), place).reshape(told["shape"])
    return found


def _shapes(model: Mapping[str, Any], n_items: int) -> dict[str, list[int]]:
    """The shape of every tensor of `models.transformer.TransformerNetwork`, by name."""
    dim, block, own = model["dim"], model["block"], {"items.weight": [n_items + 1, model["dim"]]}

    def add(name: str, *shape: int, bias: bool = True) -> None:
        own[f"{name}.weight"] = list(shape)
        if bias:
            own[f"{name}.bias"] = [shape[0]]

    if model["positions"]:
        add("positions", model["max_len"], dim, bias=False)
    if model["embed_norm"]:
        add("embed_norm", dim)
    gated, hidden = block["kind"] == "models.Gated", block.get("expand", 1) * dim
    for layer in range(model["layers"]):
        name = f"blocks.{layer}."
        add(f"{name}mix", 3 * dim, dim)
        add(f"{name}out", dim, dim)
        add(f"{name}up", 2 * hidden if gated else hidden, dim, bias=not gated)
        add(f"{name}down", dim, hidden, bias=not gated)
        for gate in ("gate_attention", "gate_feed") if gated else ():
            add(name + gate, dim, dim)
        add(f"{name}norm_attention", dim)
        add(f"{name}norm_feed", dim)
    if block["kind"] != "models.PostNorm":
        add("final_norm", dim)
    if model["transform"]:
        add("transform.0", dim, dim)
        add("transform.2", dim)
    if not model["tied"]:
        add("table", n_items, dim, bias=False)
    if model["bias"]:
        own["item_bias"] = [n_items]
    return own
