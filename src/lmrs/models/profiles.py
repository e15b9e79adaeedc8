"""Users' attributes as numbers: the distinct values that training users have, kept with the model; no user is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from lmrs.errors import CheckpointError, ContractError, UserError, did_you_mean
from lmrs.files import write_atomic
from lmrs.split import Train
from lmrs.views.profiled import attributes, profiles

FILE = "profiles.json"
MOST = 128  # values; a column with more (postal codes) says who somebody is rather than of what kind


@dataclass(frozen=True)
class Profiles:
    """values: (attribute, its values as sorted text) for F attributes. A value is known by its place, -1 if it is not there."""

    values: tuple[tuple[str, tuple[str, ...]], ...]

    @classmethod
    def of(cls, train: Train, names: tuple[str, ...] = ()) -> Profiles:
        """The values that users with training events have, of the columns `names` of the user table.

        names: () for all that have 1 to 128 values. Raises ContractError for a name that is none of them, or if there are none.
        """
        users = train.dataset.users
        found = {}
        for name, column in profiles(users, np.flatnonzero(train.lengths)).items():
            texts = sorted(pc.unique(column.drop_null()).to_pylist())
            if 0 < len(texts) <= MOST:
                found[name] = tuple(texts)
        missing = [name for name in names if name not in found]
        if missing or not found:
            offered = f"{', '.join(found) or 'none'} (columns: {', '.join(attributes(users)) or 'no user table'})"
            raise ContractError(
                needed=f"user attributes of at most {MOST} values" + (f": {', '.join(missing)}" if missing else ""),
                came=offered,
                remedy=did_you_mean(missing[0], found) if missing and found else "add a users table, or set personal=false",
            )
        return cls(tuple((name, texts) for name, texts in found.items() if name in names or not names))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.values)

    @property
    def sizes(self) -> tuple[tuple[str, int], ...]:
        """(attribute, number of values) of each."""
        return tuple((name, len(texts)) for name, texts in self.values)

    def numbers(self, texts: Mapping[str, Sequence[str | None]], n: int) -> np.ndarray:
        """int64[n, F]: the places of n users' values; -1 where a value is unknown, missing or new."""
        out = np.full((n, len(self.values)), -1, np.int64)
        for column, (name, values) in enumerate(self.values):
            place = {text: at for at, text in enumerate(values)}
            if name in texts:
                out[:, column] = [-1 if text is None else place.get(text, -1) for text in texts[name]]
        return out

    def check(self, profile: Mapping[str, object]) -> dict[str, str]:
        """A profile that a person has typed, as text. Raises UserError for an unknown attribute or value, with the nearest."""
        known, out = dict(self.values), {}
        for name, value in profile.items():
            if name not in known:
                raise UserError(needed=f"attributes among {', '.join(known)}", came=repr(name), remedy=did_you_mean(name, known))
            out[name] = str(value)
            if out[name] not in known[name]:
                raise UserError(
                    needed=f"a value of {name} that was met in training", came=repr(out[name]),
                    remedy=did_you_mean(out[name], known[name]),
                )  # fmt: skip
        return out

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.values).encode()).hexdigest()

    def save(self, folder: Path) -> Path:
        """Writes profiles.json into the folder."""
        write_atomic(folder / FILE, json.dumps(self.values, indent=1).encode() + b"\n")
        return folder / FILE

    @classmethod
    def load(cls, folder: Path) -> Profiles:
        """What `save` wrote. Raises CheckpointError."""
        try:
            read = json.loads((folder / FILE).read_bytes())
            return cls(tuple((str(name), tuple(str(text) for text in texts)) for name, texts in read))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                needed=f"the users' attributes in {folder / FILE}", came=str(error), remedy="save or fit the recommender again"
            ) from error

    def __str__(self) -> str:
        return "profiles: " + ", ".join(f"{name} ({count} values)" for name, count in self.sizes)
