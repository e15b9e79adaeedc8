"""What a model that answers several kinds of questions fits to the training events: codes of items, words said, ratings given."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from lmrs.errors import CheckpointError, ContractError
from lmrs.files import write_atomic
from lmrs.indexing import Index
from lmrs.models.said import Said
from lmrs.vocab import Vocab

FILE = "grounds.json"


@dataclass(frozen=True, eq=False)
class Grounds:
    """index: how items are written. said: who and what was spoken of. ratings: float64, the distinct ones, rising."""

    index: Index
    said: Said
    ratings: np.ndarray

    @cached_property
    def fingerprint(self) -> str:
        told = json.dumps([self.index.fingerprint, self.said.fingerprint, self.ratings.tolist()])
        return hashlib.sha256(told.encode()).hexdigest()

    def save(self, folder: Path) -> Path:
        """Writes the index, said.arrow and grounds.json. Raises StorageError."""
        self.index.save(folder)
        self.said.save(folder)
        write_atomic(folder / FILE, json.dumps({"ratings": self.ratings.tolist()}).encode() + b"\n")
        return folder

    @classmethod
    def load(cls, folder: Path) -> Grounds:
        """Reads what `save` wrote. Raises CheckpointError if a file is missing or damaged."""
        try:
            ratings = np.array(json.loads((folder / FILE).read_bytes())["ratings"], np.float64)
        except (OSError, ValueError, KeyError, TypeError) as error:
            why = " ".join(str(error).split())[:120] or type(error).__name__
            raise CheckpointError(needed=f"ratings in {folder / FILE}", came=why, remedy="fit it again") from error
        return cls(Index.load(folder), Said.load(folder), ratings)

    def __str__(self) -> str:
        rated = f"; ratings {', '.join(f'{each:g}' for each in self.ratings)}" if 0 < len(self.ratings) <= 20 else ""
        return f"{self.index}{rated}"

    def __repr__(self) -> str:
        return f"<Grounds: {self}>"


def grounds_in(vocab: Vocab) -> Grounds:
    """The artefact that `Model.prepare` made. Raises ContractError if it is not there."""
    if not isinstance(vocab.prepared, Grounds):
        raise ContractError(
            needed="an index of the items and what goes with it in vocab.prepared",
            came=repr(vocab.prepared),
            remedy="fit makes it",
        )
    return vocab.prepared
