"""Caser: convolutions over the last few items (Tang & Wang, WSDM 2018, arXiv 1809.07426)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.losses import Output
from lmrs.models.checks import at_least, below_one
from lmrs.models.dropout import dropout
from lmrs.models.network import Model, Network
from lmrs.visibility import Causal, Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class Caser(Model):
    """The last `window` items of each position as an image E [L, D], zero rows where the history is shorter.

    horizontal: for each height h in 1..L, `horizontal` filters h x D, ReLU, largest value over time (equations 3-5);
    vertical: `vertical` filters L x 1, each a weighted sum of the rows of E (equations 7-9);
    z = relu(W [horizontal, vertical] + b) (equation 10); score(i) = table[i] . [z, p_u] + bias[i] (equation 11).

    dim: D. max_len: longest row, in positions. dropout: on the convolutions' output, in [0, 1).
    users: append a user vector p_u = base + own, where `own` starts at zero: users outside the training data, and rows
    without the channel `user` (or with -1 in it), are answered with `base`, the vector that all users share.
    False: score(i) = table[i] . z + bias[i].
    """

    dim: int = 50
    window: int = 5
    horizontal: int = 16
    vertical: int = 4
    max_len: int = 50
    dropout: float = 0.5
    users: bool = False

    def __post_init__(self) -> None:
        at_least(1, dim=self.dim, window=self.window, horizontal=self.horizontal, vertical=self.vertical, max_len=self.max_len)
        below_one(dropout=self.dropout)

    def allows(self, visible: Visibility) -> bool:
        return isinstance(visible, Causal)

    def build(self, vocab: Vocab) -> CaserNetwork:
        return CaserNetwork(self, vocab)


class CaserNetwork(Network):
    def __init__(self, model: Caser, vocab: Vocab) -> None:
        super().__init__()
        self.model, self.n_items = model, vocab.n_items
        self.n_users = len(vocab.users)
        self.dim = model.dim * 2 if model.users else model.dim
        self.items = nn.Embedding(vocab.n_items, model.dim)
        self.heights = nn.ModuleList(nn.Linear(h * model.dim, model.horizontal) for h in range(1, model.window + 1))
        self.vertical = nn.Linear(model.window, model.vertical)
        self.mix = nn.Linear(model.window * model.horizontal + model.vertical * model.dim, model.dim)
        self.user_base = nn.Parameter(torch.empty(model.dim)) if model.users else None
        self.user_own = nn.Embedding(self.n_users, model.dim) if model.users else None
        self.table = nn.Embedding(vocab.n_items, self.dim)
        self.item_bias = nn.Parameter(torch.zeros(vocab.n_items))
        # The authors' deviations: one over the width.
        for table in (self.items, self.table):
            nn.init.normal_(table.weight, std=1 / table.embedding_dim)
        if self.user_base is not None and self.user_own is not None:
            nn.init.normal_(self.user_base, std=1 / model.dim)
            nn.init.zeros_(self.user_own.weight)

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        if not self.model.allows(visible):
            raise ContractError(needed="Causal() visibility for Caser", came=repr(visible))
        window = self.model.window
        back = self._back(batch)
        x = self.items(batch.channels["item"])
        image = torch.cat([x, x.new_zeros(1, self.model.dim)])[back.flip(1)]  # (N, L, D), newest item last
        parts = []
        for height, layer in enumerate(self.heights, 1):
            assert isinstance(layer, nn.Linear)
            # A filter's value at a position is shared by every image that contains it: it is computed once, then the
            # largest of the last L - h + 1 is taken. Above the start of a row a filter sees zeros and gives its bias.
            value = layer(image[:, window - height :].flatten(1))  # (N, filters)
            value = torch.cat([value, layer.bias[None].to(value)])
            parts.append(F.relu(value)[back[:, : window - height + 1]].amax(1))
        parts.append(self.vertical(image.transpose(1, 2)).transpose(1, 2).flatten(1))  # (N, filters * D)
        z = F.relu(self.mix(dropout(torch.cat(parts, 1), self.model.dropout, rng)))
        if self.user_base is not None:
            z = torch.cat([z, self._users(batch)[batch.row_of].to(z)], 1)
        return z if at is None else z[at]

    def _back(self, batch: Batch) -> Tensor:
        """int64[N, L]: the flat place of the item k = 0..L-1 steps back in the same row, N where there is none."""
        at = torch.arange(batch.n_positions)
        within = at - torch.repeat_interleave(batch.offsets[:-1], batch.lengths)
        steps = torch.arange(self.model.window)
        back = torch.where(steps <= within[:, None], at[:, None] - steps, batch.n_positions)
        return back.to(batch.channels["item"].device)

    def _users(self, batch: Batch) -> Tensor:
        """[B, D] vectors of the rows' users."""
        assert self.user_base is not None
        assert self.user_own is not None
        base = self.user_base.expand(batch.n_rows, -1)
        if "user" not in batch.rows or self.n_users == 0:
            return base
        user = batch.rows["user"]
        known = (user >= 0) & (user < self.n_users)
        return base + self.user_own(user.clamp(0, self.n_users - 1)) * known[:, None]

    def output(self) -> Output:
        return Output(self.table.weight, self.item_bias)
