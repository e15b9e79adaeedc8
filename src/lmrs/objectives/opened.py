"""Opened: next item in rows that open with what is known of the user, with a contrast of changed copies (PPR's prompt tuning)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lmrs.batch import Batch, from_rows
from lmrs.errors import ContractError
from lmrs.losses import Charge, FullSoftmax
from lmrs.models.network import Network
from lmrs.models.profiles import Profiles
from lmrs.objectives.looking_back import LookingBack
from lmrs.objectives.next_item import charge_targets, charged, with_negatives
from lmrs.vocab import Vocab

_COPY = "copy."  # the changed copies of the whole batch travel as batch-level tensors of these names


@dataclass(frozen=True)
class Opened(LookingBack):
    """Rows [start, x_1, ..., x_t]: the start stands for the user, and every event is predicted from it, the first one too.

    next: -sum_t log p(x_t | start, x_<t), with the catalogue term of `loss`.
    alike: -sum_r log exp(cos(a_r, b_r) / T) / sum_r' exp(cos(a_r, b_r') / T) over the rows r' of the batch, weighed by `contrast`
    (0 leaves it out). a_r: the last state of row r where each of the user's attributes is hidden with probability `hide`; b_r:
    that of a copy in which each event is left out with probability `drop`. Denominators are those of the whole batch, however
    it is sharded.

    The start holds the mask symbol and is marked by the channel `start`; `rows["profile"]` int64[B, F] holds the users' values as
    the model has numbered them (models.Profiles; F = 0 for a model without). A network without prompts reads the mask's vector.
    A user without events can be asked. temperature: T > 0.
    """

    loss: Charge = FullSoftmax()  # noqa: RUF009 - a frozen value
    contrast: float = 0.1
    temperature: float = 0.1
    hide: float = 0.3
    drop: float = 0.3

    ahead = 0  # the last input is the event before the last one of the row: the start moved all by one
    asks = 1

    def __post_init__(self) -> None:
        if self.contrast < 0:
            raise ContractError(needed="contrast of at least 0", came=f"contrast={self.contrast}")
        if not self.temperature > 0:
            raise ContractError(needed="temperature above 0", came=f"temperature={self.temperature}")
        for name in ("hide", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ContractError(needed=f"{name} in [0, 1]", came=f"{name}={getattr(self, name)}")

    @property
    def weights(self) -> dict[str, float]:
        return {"next": 1.0, **({"alike": self.contrast} if self.contrast else {})}

    def corrupt(self, batch: Batch, vocab: Vocab, rng: torch.Generator) -> Batch:
        """The last event of each row makes room for the start."""
        inputs = torch.ones(batch.n_positions, dtype=torch.bool)
        inputs[batch.last] = False
        profile = profile_of(batch, vocab)
        prepared = started(batch.keep(inputs), vocab).with_channels(target=batch.channels["item"])
        prepared = replace(prepared, rows={**prepared.rows, "profile": profile})
        if self.contrast:
            shown = torch.rand(profile.shape, generator=rng) >= self.hide
            less = torch.where(shown, profile, -1)
            prepared = replace(prepared, rows={**prepared.rows, "less": less, "place": torch.arange(batch.n_rows)})
            prepared = replace(prepared, extra={**prepared.extra, **self._copies(prepared, rng)})
        return with_negatives(prepared, self.loss, vocab, rng)

    def _copies(self, prepared: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """All rows without some of their events, `copy.place` naming theirs."""
        kept = (torch.rand(prepared.n_positions, generator=rng) >= self.drop) | prepared.channels["start"]
        lengths = torch.zeros(prepared.n_rows, dtype=torch.int64).index_add_(0, prepared.row_of, kept.long())
        channels = {name: value[kept] for name, value in prepared.channels.items() if name not in ("position", "target")}
        copies = from_rows(channels, lengths, {name: prepared.rows[name] for name in ("profile", "place")})
        named = {**copies.channels, "offsets": copies.offsets, "place": copies.rows["place"], "profile": copies.rows["profile"]}
        return {f"{_COPY}{name}": value for name, value in named.items()}

    def counts(self, prepared: Batch) -> dict[str, int]:
        found = {"next": prepared.n_positions, "alike": prepared.n_rows}
        return {name: found[name] for name in self.weights}

    def charge(
        self, network: Network, head: nn.Module | None, prepared: Batch, vocab: Vocab, rng: torch.Generator | None
    ) -> dict[str, Tensor]:
        states = network(prepared, self.visible, rng, charged(prepared))
        found = {"next": charge_targets(network, states, prepared, self.loss, vocab)}
        if self.contrast:
            less = replace(prepared, rows={**prepared.rows, "profile": prepared.rows["less"]})
            copies = _unpacked(prepared.extra)
            one = network.read(network(less, self.visible, rng, less.last))
            other = network.read(network(copies, self.visible, rng, copies.last))[torch.argsort(copies.rows["place"])]
            with torch.autocast(one.device.type, enabled=False):  # the loss is in fp32 at least
                wide = torch.promote_types(one.dtype, torch.float32)
                logits = F.normalize(one.to(wide), dim=1) @ F.normalize(other.to(wide), dim=1).T / self.temperature
                found["alike"] = F.cross_entropy(logits, prepared.rows["place"], reduction="sum")
        return found

    def ask(self, batch: Batch, vocab: Vocab) -> Batch:
        opened = started(batch, vocab)
        return super().ask(replace(opened, rows={**opened.rows, "profile": profile_of(batch, vocab)}), vocab)


def profile_of(batch: Batch, vocab: Vocab) -> Tensor:
    """int64[B, F]: the users' attributes, which the view gives as texts, as the model has numbered them; F = 0 if it has not."""
    if not isinstance(vocab.prepared, Profiles):
        return torch.zeros(batch.n_rows, 0, dtype=torch.int64)
    return torch.from_numpy(vocab.prepared.numbers(batch.texts, batch.n_rows))


def started(batch: Batch, vocab: Vocab) -> Batch:
    """Every row with one position more before its first: the mask symbol in `item`, True in `start`, 0 elsewhere."""
    offsets = batch.offsets + torch.arange(batch.n_rows + 1)
    old = torch.arange(batch.n_positions) + batch.row_of + 1
    channels = {}
    for name, values in batch.channels.items():
        channels[name] = values.new_zeros(int(offsets[-1]), *values.shape[1:])
        channels[name][old] = values + 1 if name == "position" else values
    start = torch.zeros(int(offsets[-1]), dtype=torch.bool)
    start[offsets[:-1]] = True
    channels["item"][start] = vocab.mask
    return replace(batch, channels={**channels, "start": start}, offsets=offsets)


def _unpacked(extra: dict[str, Tensor]) -> Batch:
    tensors = {name.removeprefix(_COPY): value for name, value in extra.items() if name.startswith(_COPY)}
    offsets, place, profile = tensors.pop("offsets").cpu(), tensors.pop("place"), tensors.pop("profile")
    return Batch(tensors, offsets, {"place": place, "example": place, "profile": profile})
