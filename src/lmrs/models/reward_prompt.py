"""A sequence encoder that is told how far the user is and what return to aim at (PRL, Xin et al., SIGIR 2022, section 3)."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import CheckpointError, ContractError, did_you_mean
from lmrs.files import write_atomic
from lmrs.losses import Output
from lmrs.models.caser import Caser
from lmrs.models.checks import below_one
from lmrs.models.dropout import dropout
from lmrs.models.network import Model, Network
from lmrs.models.recurrent import Recurrent
from lmrs.models.transformer import Transformer
from lmrs.split import Train
from lmrs.views.rewarded import Rewarded
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab

FILE = "returns.json"
FUSIONS = ("attention", "mean", "mlp")


@dataclass(frozen=True)
class Returns:
    """means: by step t (0-based), the mean over training rows of the return from the event that follows t + 1 others."""

    means: tuple[float, ...]

    @classmethod
    def of(cls, view: Rewarded, train: Train) -> Returns:
        """Steps that no training row reaches have the mean of the last one that is reached."""
        rows = view.rows(train, ahead=1, rng=np.random.default_rng(0))
        total, count = torch.zeros(view.max_len, dtype=torch.float64), torch.zeros(view.max_len, dtype=torch.float64)
        for some in np.array_split(np.arange(len(rows)), max(1, len(rows) // 4096)):
            batch = view.collate(rows.take(some))
            later = batch.channels["position"] > 0
            step = batch.channels["position"][later] - 1
            total.index_add_(0, step, batch.channels["return"][later].double())
            count.index_add_(0, step, torch.ones(len(step), dtype=torch.float64))
        met = int((count > 0).sum())  # rows have no gaps: the steps met are the first ones
        means = (total[:met] / count[:met]).tolist()
        return cls(tuple(means + means[-1:] * (view.max_len - met)))

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.means).encode()).hexdigest()

    def save(self, folder: Path) -> Path:
        """Writes returns.json into the folder."""
        write_atomic(folder / FILE, json.dumps(self.means).encode() + b"\n")
        return folder / FILE

    @classmethod
    def load(cls, folder: Path) -> Returns:
        """What `save` wrote. Raises CheckpointError."""
        try:
            return cls(tuple(float(each) for each in json.loads((folder / FILE).read_bytes())))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(
                needed=f"mean returns in {folder / FILE}", came=str(error), remedy="save or fit the recommender again"
            ) from error

    def __str__(self) -> str:
        return f"mean return: {self.means[0]:.2f} at the first step, {self.means[-1]:.2f} at the last"


@dataclass(frozen=True)
class RewardPrompt(Model):
    """Three vectors a place: the encoder's state s_t, a learned vector of the step t, and R_t w, the return times a learned row.

    They are fused by self-attention among the three (one head, residual), combined by a learned weighting of the three and a
    ReLU, and scored against the encoder's items. In training R_t is that of the row (channel `return`); without that
    channel it is `aim` times the mean return of training rows at that step: the prompt.

    encoder: any sequence model; tied=False gives it the paper's own output layer. rewards: the view that says what pays.
    aim: c >= 0. fusion: "attention" (the paper's), "mean" of the three, or "mlp" over them side by side. dropout: on the three
    vectors, in [0, 1).
    """

    encoder: Transformer | Recurrent | Caser = Transformer(tied=False, bias=True)  # noqa: RUF009 - a frozen value
    rewards: Rewarded = Rewarded()  # noqa: RUF009 - a frozen value
    aim: float = 2.0
    fusion: str = "attention"
    dropout: float = 0.3

    def __post_init__(self) -> None:
        if self.fusion not in FUSIONS:
            raise ContractError(
                needed=f"a fusion among {', '.join(FUSIONS)}", came=repr(self.fusion), remedy=did_you_mean(self.fusion, FUSIONS)
            )
        if not 0 <= self.aim < math.inf:
            raise ContractError(needed="aim of at least 0", came=f"aim={self.aim}")
        below_one(dropout=self.dropout)
        if self.rewards.max_len > self.encoder.max_len:
            raise ContractError(
                needed=f"rewards for at most {self.encoder.max_len} positions",
                came=f"a view with max_len={self.rewards.max_len}",
                remedy="make the two max_len agree",
            )

    @property
    def max_len(self) -> int:  # type: ignore[override]
        return self.encoder.max_len

    def allows(self, visible: Visibility) -> bool:
        return self.encoder.allows(visible)

    def prepare(self, train: Train, *, seed: int) -> Returns:
        return Returns.of(self.rewards, train)

    def restore(self, folder: Path) -> Returns:
        return Returns.load(folder)

    def build(self, vocab: Vocab) -> RewardPromptNetwork:
        return RewardPromptNetwork(self, vocab)


class RewardPromptNetwork(Network):
    """means: float[max_len], not saved with the weights but beside them. aim: may be changed between questions."""

    means: Tensor

    def __init__(self, about: RewardPrompt, vocab: Vocab) -> None:
        super().__init__()
        known = vocab.prepared
        assert isinstance(known, Returns)  # what `prepare` made
        self.about, self.aim = about, about.aim
        self.encoder = about.encoder.build(vocab)
        self.n_items, self.dim = vocab.n_items, self.encoder.dim
        means = torch.tensor(known.means)
        self.register_buffer("means", torch.cat([means, means[-1:].expand(about.max_len - len(means))]), persistent=False)
        self.steps = nn.Embedding(about.max_len, self.dim)
        self.reward = nn.Parameter(torch.empty(self.dim).normal_(0, 0.01))
        nn.init.normal_(self.steps.weight, 0, 0.01)
        self.fuse = {"attention": _Attention, "mean": _Mean, "mlp": _Perceptron}[about.fusion](self.dim)

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        states = self.encoder(batch, visible, rng, at)
        step = batch.channels["position"]
        goal = batch.channels["return"] if "return" in batch.channels else self.aim * self.means[step]
        step, goal = (step, goal) if at is None else (step[at], goal[at])
        told = goal.to(states)[:, None] * self.reward.to(states)
        three = torch.stack([states, self.steps(step).to(states), told], 1)  # (M, 3, D)
        return self.fuse(dropout(three, self.about.dropout, rng))

    def read(self, states: Tensor) -> Tensor:
        return self.encoder.read(states)

    def output(self) -> Output:
        return self.encoder.output()


class _Attention(nn.Module):
    """y = x + softmax(q k^T / sqrt(D)) v among the three, then relu(sum_j a_j y_j + b)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = nn.Linear(dim, 3 * dim)
        self.share = nn.Parameter(torch.full((3,), 1 / 3))
        self.bias = nn.Parameter(torch.zeros(1))
        nn.init.trunc_normal_(self.mix.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(self.mix.bias)

    def forward(self, three: Tensor) -> Tensor:
        query, key, value = self.mix(three).chunk(3, 2)
        seen = (query @ key.transpose(1, 2) / math.sqrt(three.shape[2])).softmax(2) @ value
        return (torch.einsum("j,mjd->md", self.share, three + seen) + self.bias).relu()


class _Mean(nn.Module):
    """The mean of the three."""

    def __init__(self, dim: int) -> None:
        super().__init__()

    def forward(self, three: Tensor) -> Tensor:
        return three.mean(1)


class _Perceptron(nn.Module):
    """W2 relu(W1 [s; t; r])."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3 * dim, dim), nn.Linear(dim, dim)

    def forward(self, three: Tensor) -> Tensor:
        return self.second(self.first(three.flatten(1)).relu())
