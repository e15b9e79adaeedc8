"""Tags: which of all labels belong to a document, each one yes or no (multi-label cross-entropy; PTM4Tag)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.models.network import Network
from lmrs.models.text_towers import TextTowersNetwork
from lmrs.objectives.looking_back import LookingBack
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Tags(LookingBack):
    """-sum_i [y_i log sig(s_i) + (1 - y_i) log sig(-s_i)] over all V labels of a document, by its texts; a mean over B V cells.

    hidden: all labels. seen: the texts alone. Siblings: NextItem ranks one true item against the others; here any number is true.
    For models.TextTowers, with the rows of views.Documents.
    """

    ahead = 0

    @property
    def weights(self) -> dict[str, float]:
        return {"tags": 1.0}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        """Rows without positions; what they were is the row channel `tags`, bool[B, V]."""
        tags = torch.zeros(batch.n_rows, vocab.n_items, dtype=torch.bool)
        tags[batch.row_of, batch.channels["item"]] = True
        nothing = batch.keep(torch.zeros(batch.n_positions, dtype=torch.bool))
        return replace(nothing, rows={**batch.rows, "tags": tags})

    def counts(self, prepared: Batch) -> dict[str, int]:
        return {"tags": prepared.rows["tags"].numel()}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        if not isinstance(network, TextTowersNetwork):
            raise ContractError(needed="models.TextTowers for Tags", came=type(network).__name__)
        scores = network.output().scores(network.documents(prepared, rng))
        with torch.autocast(scores.device.type, enabled=False):
            truth = prepared.rows["tags"].to(network.output().table.dtype)
            return {"tags": F.binary_cross_entropy_with_logits(scores.to(truth), truth, reduction="sum")}
