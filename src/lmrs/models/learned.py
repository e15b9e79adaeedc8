"""Weights learned on other data, taken over by a model that is built for new ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from lmrs.errors import CheckpointError, UserError

TENSORS, ABOUT = "tensors.safetensors", "model.json"


@dataclass(frozen=True, eq=False)
class Learned:
    """Tensors of a saved recommender by name. folder: where they were. origin: the pre-trained model that it was fitted on.

    It is a `vocab.Prepared` that saves nothing: what was taken over is part of the new model's own tensors.
    """

    folder: Path
    tensors: dict[str, Tensor]
    origin: str

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.origin.encode())
        for name, tensor in sorted(self.tensors.items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        return None

    def __str__(self) -> str:
        return f"starts from {sum(each.numel() for each in self.tensors.values()):,} numbers learned in {self.folder}"

    def into(self, module: nn.Module) -> None:
        """Writes every tensor over the parameter or buffer of its name.

        Raises CheckpointError for one that the module does not have in that shape, or has and does not get.
        """
        own = dict(module.state_dict())
        for name in sorted(own.keys() | self.tensors.keys()):
            needed, came = (list(each[name].shape) if name in each else "none" for each in (own, self.tensors))
            if needed != came:
                raise CheckpointError(
                    needed=f"the tensor {name!r} of shape {needed} in {self.folder}",
                    came=f"{came}",
                    remedy="give the sizes that it was trained with",
                )
        module.load_state_dict(self.tensors)


def learned(folder: str, prefixes: tuple[str, ...]) -> Learned:
    """The tensors of a saved recommender whose names begin so. folder: a run (its `model/` is read) or a saved recommender.

    Raises UserError if there is none, CheckpointError if it cannot be read.
    """
    from safetensors.torch import load_file

    place = Path(folder).expanduser()
    place = place / "model" if (place / "model" / TENSORS).is_file() else place
    if not (place / TENSORS).is_file():
        raise UserError(
            needed=f"a run or a saved recommender in {folder}", came=f"no {TENSORS}", remedy="name the folder of a run"
        )
    try:
        tensors, about = load_file(place / TENSORS), json.loads((place / ABOUT).read_bytes())
        origin = str(about["origin"])
    except Exception as error:  # safetensors raises its own
        raise CheckpointError(needed=f"a whole recommender in {place}", came=str(error)[:160], remedy="save it again") from error
    found = {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}
    if not found:
        raise CheckpointError(
            needed=f"tensors {', '.join(prefixes)} in {place}",
            came=", ".join(sorted(tensors)[:5]),
            remedy="name a run of this system",
        )
    return Learned(place, found, origin)
