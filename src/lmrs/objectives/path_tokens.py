"""Path tokens: write a path over a graph word by word (AM with a softmax for each type of token; PLM-Rec)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.losses import FullSoftmax
from lmrs.models.network import Network
from lmrs.models.path_lm import PathNetwork
from lmrs.objectives.looking_back import LookingBack
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class PathTokens(LookingBack):
    """L = CE over nodes + CE over relations, each a mean over the places where a token of that type comes next.

    hidden: nothing; a token sees the user and the tokens before it. For models.PathLM, with the paths that views.Paths draws.
    """

    needs = ("item", "path")
    ahead = 0

    @property
    def weights(self) -> dict[str, float]:
        return {"entity": 1.0, "relation": 1.0}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        return batch

    def counts(self, prepared: Batch) -> dict[str, int]:
        rows, size = prepared.rows["path"].shape
        return {"entity": rows * (size // 2 + 1), "relation": rows * (size // 2)}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        if not isinstance(network, PathNetwork):
            raise ContractError(needed="models.PathLM for PathTokens", came=type(network).__name__)
        path, size = prepared.rows["path"], 2 * network.model.hops - 1
        if path.shape[1] != size or prepared.extra["graph"].tolist() != network.graph.size.tolist():
            raise ContractError(
                needed=f"paths of {network.model.hops} hops over the graph of the model",
                came=f"{path.shape[1] // 2 + 1} hops, over {'the same' if path.shape[1] != size else 'another'}",
                remedy="give views.Paths the knowledge and the hops of models.PathLM",
            )
        states = network.along(network.users(prepared, prepared.last), path[:, :-1], rng)
        found = {}
        for part, output, first in (("entity", network.entities(), 0), ("relation", network.kinds(), 1)):
            target = path[:, first::2].reshape(-1)
            given = states[:, first::2].reshape(len(target), network.dim)
            with torch.autocast(states.device.type, enabled=False):
                found[part] = FullSoftmax().charge(given.to(output.table), output, target)
        return found
