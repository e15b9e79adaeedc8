"""A transformer over item ids whose rows open with soft prompts made from the user's profile (PPR, Wu et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lmrs.batch import Batch
from lmrs.errors import ContractError
from lmrs.models.checks import at_least
from lmrs.models.network import Model
from lmrs.models.profiles import Profiles
from lmrs.models.transformer import Transformer, TransformerNetwork
from lmrs.prompts import Free, FromProfile
from lmrs.split import Train
from lmrs.visibility import Visibility
from lmrs.vocab import Vocab


@dataclass(frozen=True)
class ProfilePrompt(Model):
    """[p_1 .. p_n, v_1 .. v_t] through the blocks, P = W2 relu(W1 x + b1) + b2 and x the embeddings of the user's attributes.

    Prompts stand where the channel `start` (bool[N]) marks the first position of a row: its item is not read, and n - 1 further
    positions come before it. `rows["profile"]` int64[B, F] holds the values (-1: unknown). Without that channel this is `body`,
    bit for bit: so it is pre-trained.

    body: the recommender that is prompted. names: attributes of the user table, () for all with few values. personal: False gives
    all users the same learned prompts. length: n >= 1. dim: width of an attribute's embedding. hidden: width of the generator.
    """

    body: Transformer = Transformer()  # noqa: RUF009 - a frozen value
    names: tuple[str, ...] = ()
    personal: bool = True
    length: int = 1
    dim: int = 16
    hidden: int = 64

    def __post_init__(self) -> None:
        at_least(1, length=self.length, dim=self.dim, hidden=self.hidden)
        if self.length > self.body.max_len:
            raise ContractError(needed=f"at most {self.body.max_len} prompts", came=str(self.length), remedy="raise max_len")

    @property
    def max_len(self) -> int:  # type: ignore[override]
        return self.body.max_len - (self.length - 1)

    @property
    def prompted(self) -> bool:
        return True

    @property
    def soft(self) -> bool:
        return True

    def group(self, name: str) -> str:
        return "prompt" if name.startswith("prompt.") else "model"

    def allows(self, visible: Visibility) -> bool:
        return self.body.allows(visible)

    def prepare(self, train: Train, *, seed: int) -> Profiles | None:
        return Profiles.of(train, self.names) if self.personal else None

    def restore(self, folder: Path) -> Profiles | None:
        return Profiles.load(folder) if self.personal else None

    def build(self, vocab: Vocab) -> ProfilePromptNetwork:
        return ProfilePromptNetwork(self, vocab)


class ProfilePromptNetwork(TransformerNetwork):
    def __init__(self, about: ProfilePrompt, vocab: Vocab) -> None:
        super().__init__(about.body, vocab)
        self.about = about
        self.names: tuple[str, ...] = ()
        source: Free | FromProfile = Free(about.length)
        if about.personal:
            known = vocab.prepared
            assert isinstance(known, Profiles)  # what `prepare` made
            self.names = known.names
            source = FromProfile(known.sizes, about.length, dim=about.dim, hidden=about.hidden)
        assert self.items is not None
        rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self.prompt = source.build(self.items.embedding_dim, rng)

    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        if "start" not in batch.channels:
            return super().forward(batch, visible, rng, at)
        grown, place = self.opened(batch)
        return super().forward(grown, visible, rng, place if at is None else place[at])

    def opened(self, batch: Batch) -> tuple[Batch, Tensor]:
        """(every row with n - 1 positions more before its start, where each old position stands now int64[N])."""
        more, device = self.about.length - 1, batch.channels["item"].device
        grown = replace(batch, offsets=batch.offsets + more * torch.arange(batch.n_rows + 1))
        row = grown.row_of
        within = torch.arange(grown.n_positions, device=device) - grown.offsets[:-1].to(device)[row]
        old = batch.offsets[:-1].to(device)[row] + (within - more).clamp_min(0)  # what comes first says what the start says
        channels = {name: values[old] for name, values in batch.channels.items()}
        channels |= {"position": within, "prompt": torch.where(within <= more, within, -1)}
        place = torch.arange(batch.n_positions, device=device) + more * (batch.row_of + 1)
        return replace(grown, channels=channels), place

    def look_up(self, batch: Batch, rng: torch.Generator | None) -> Tensor:
        vectors = super().look_up(batch, rng)
        if "prompt" not in batch.channels:
            return vectors
        which = batch.channels["prompt"]
        at = (which >= 0).nonzero()[:, 0]
        profile = {name: batch.rows["profile"][:, column] for column, name in enumerate(self.names)}
        prompts = self.prompt(batch.n_rows, profile)  # (B, n, E)
        return vectors.index_put((at,), prompts[batch.row_of[at], which[at]].to(vectors))

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        """A row without any position, which only the unprompted body is asked, gets zeros: it says nothing of such a user."""
        asked = batch.channels["asked"].nonzero()[:, 0]
        found = self.output().scores(self.read(self.forward(batch, visible, at=asked)))
        return found.new_zeros(batch.n_rows, self.n_items).index_copy(0, batch.row_of[asked], found)
