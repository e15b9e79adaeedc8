"""Encoded once, kept on disk by content: the same texts under the same model are never read twice on one machine.

`<cache>/vectors/<encoder>/<texts>.safetensors` holds [n, E] vectors of n distinct texts, the SHA-256 of each text and, in its
header, that of the whole. <encoder> is a hash of the backbone's weights and tokenizer, its precision, pooling, length and
normalisation; <texts> one of the texts. When a catalogue changes, only texts that no file of this encoder holds are encoded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lmrs.cache import cache_folder
from lmrs.errors import ContractError
from lmrs.files import storage, write_atomic
from lmrs.texts.encoder import TextEncoder
from lmrs.texts.policies import ItemVectors

FORMAT = 1
_MARK = 16  # bytes of a text's SHA-256 that are kept


@dataclass(frozen=True)
class Frozen:
    """Every text is encoded once and never again; the encoder does not learn and is not kept in memory."""

    def build(self, encoder: TextEncoder, texts: Sequence[str]) -> ItemVectors:
        return _Frozen(encoder, texts)


class _Frozen(ItemVectors):
    """vectors: [V, E]; no part of the saved state, for they can be had again from the texts."""

    vectors: Tensor

    def __init__(self, encoder: TextEncoder, texts: Sequence[str]) -> None:
        super().__init__()
        found = encoded(encoder, texts)
        self.n_items, self.dim = found.shape
        self.register_buffer("vectors", torch.from_numpy(found), persistent=False)

    def forward(self, items: Tensor, rng: torch.Generator | None = None) -> Tensor:
        return self.vectors[items]

    def table(self) -> Tensor:
        return self.vectors

    def fresh(self, items: Tensor) -> Tensor:
        return self.vectors[items]


def encoded(encoder: TextEncoder, texts: Sequence[str], *, cache: Path | str | None = None) -> np.ndarray:
    """float32[n, E]: the vectors of the texts, from the cache where it has them.

    cache: folder (None: see `lmrs.cache`). A damaged file is made again. Raises StorageError if the cache cannot be written and
    UserError if the backbone is not at hand, ContractError for pooling that has to be learned.
    """
    if not isinstance(encoder.pooling, str):
        raise ContractError(
            needed="pooling without weights for texts that are encoded once",
            came=repr(encoder.pooling),
            remedy="use pooling='mean'",
        )
    distinct, place = np.unique(np.array([_mark(text) for text in texts], f"S{2 * _MARK}"), return_inverse=True)
    of = dict(zip((_mark(text) for text in texts), texts, strict=True))
    folder = cache_folder(cache) / "vectors" / _named(encoder)
    file = folder / f"{hashlib.sha256(b''.join(distinct)).hexdigest()[:32]}.safetensors"
    known = _load(file)
    if known is not None and np.array_equal(known[0], distinct):
        return known[1][place]
    vectors, missing = _borrowed(folder, distinct)
    if missing.any():
        module = encoder.build()
        with torch.no_grad():
            made = module(module.read([of[mark.decode()] for mark in distinct[missing]])).numpy()
        if vectors is None:
            vectors = np.zeros((len(distinct), made.shape[1]), np.float32)
        vectors[missing] = made
    assert vectors is not None
    _store(file, distinct, vectors)
    return vectors[place]


def _mark(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[: 2 * _MARK]


def _named(encoder: TextEncoder) -> str:
    """The folder of an encoder: all that its vectors depend on, but the place of its files."""
    info = encoder.backbone.info()
    told = {**asdict(encoder), "backbone": info.fingerprint, "precision": encoder.backbone.precision, "format": FORMAT}
    told["max_tokens"] = min(encoder.max_tokens, info.context)
    if encoder.layers is None:
        told.pop("layers")
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:32]


def _borrowed(folder: Path, wanted: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """(vectors [n, E] or None, which are still missing bool[n]) from the other files of the encoder, the newest first."""
    missing = np.ones(len(wanted), bool)
    vectors: np.ndarray | None = None
    for file in sorted(folder.glob("*.safetensors"), key=_age):
        if not missing.any():
            break
        known = _load(file)
        if known is None or not len(known[0]):
            continue
        at = np.minimum(np.searchsorted(known[0], wanted), len(known[0]) - 1)
        found = (known[0][at] == wanted) & missing
        if vectors is None:
            vectors = np.zeros((len(wanted), known[1].shape[1]), np.float32)
        vectors[found] = known[1][at[found]]
        missing &= ~found
    return vectors, missing


def _age(file: Path) -> float:
    with suppress(OSError):
        return -file.stat().st_mtime
    return 0.0


def _store(file: Path, marks: np.ndarray, vectors: np.ndarray) -> None:
    from safetensors.numpy import save

    with storage(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"marks": np.frombuffer(marks.tobytes(), np.uint8).reshape(len(marks), -1), "vectors": vectors}
    write_atomic(file, save(tensors, metadata={"sha256": _digest(marks, vectors)}))


def _load(file: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """(sorted marks S32[n], vectors float32[n, E]) of a file; None if there is none or its bytes are not what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="numpy") as opened:
            raw, vectors = opened.get_tensor("marks"), opened.get_tensor("vectors")
            told = (opened.metadata() or {}).get("sha256")
        marks = np.ascontiguousarray(raw).view(f"S{2 * _MARK}").reshape(-1)
    except (SafetensorError, OSError, ValueError):
        return None
    sound = len(marks) == len(vectors) and vectors.dtype == np.float32 and told == _digest(marks, vectors)
    return (marks, vectors) if sound else None


def _digest(marks: np.ndarray, vectors: np.ndarray) -> str:
    return hashlib.sha256(marks.tobytes() + np.ascontiguousarray(vectors).tobytes()).hexdigest()
