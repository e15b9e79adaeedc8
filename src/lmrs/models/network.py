"""What every trained thing must be able to do: rank the catalogue for the rows of a Batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from lmrs.batch import Batch
from lmrs.errors import CheckpointError, UserError
from lmrs.losses import Output
from lmrs.models.unread import Unread
from lmrs.split import Train
from lmrs.visibility import Visibility
from lmrs.vocab import Prepared, Vocab


class Model(ABC):
    """The description of a network: a frozen value that says what it reads and under which visibilities it can run.

    max_len: longest row in positions.
    pretrained: its weights were learned elsewhere, before any stage. prompted: it is asked in words. soft: with learned vectors
    among them. by_item: it scores item by item, so the whole catalogue takes long.
    """

    max_len: int

    @property
    def pretrained(self) -> bool:
        return False

    @property
    def prompted(self) -> bool:
        return False

    @property
    def soft(self) -> bool:
        return False

    @property
    def by_item(self) -> bool:
        return False

    @property
    def knows_users(self) -> bool:
        return False

    @property
    def knows_new(self) -> bool:
        """Items without training events are told apart, by their texts or in a graph."""
        return False

    @property
    def origin(self) -> str:
        """A fingerprint of the weights it starts from, "" where they are drawn. Raises UserError if they are not at hand."""
        return ""

    def given(self, name: str) -> bool:
        """Whether `build` gives this parameter or buffer as it was learned elsewhere, equal in every build."""
        return False

    def group(self, name: str) -> str:
        """To which group a parameter, or a pattern of names, belongs: "model", "prompt" or "head".

        The survey's strategies differ in which groups learn.
        """
        return "model"

    def prepare(self, train: Train, *, seed: int) -> Prepared | None:
        """What the model fits to training events before `build` (an index of the items), or None; a function of its arguments.

        fit calls it once, hands it to `build` as `vocab.prepared`, and keeps it with the model.
        """
        return None

    def restore(self, folder: Path) -> Prepared | None:
        """What `prepare` made, read from the folder that its `save` wrote to. Raises CheckpointError."""
        return None

    @abstractmethod
    def build(self, vocab: Vocab) -> Network:
        """The module. Draws its initial weights from torch's generator as it stands (fit seeds a private copy of it)."""

    @abstractmethod
    def allows(self, visible: Visibility) -> bool:
        """Can the network run under this visibility?"""


class Control(ABC):
    """The description of a control: a frozen value whose scorer is estimated in closed form."""

    @property
    def knows_new(self) -> bool:
        """As for a Model."""
        return False

    @abstractmethod
    def build(self, vocab: Vocab) -> ControlScorer:
        """The scorer, still empty; its buffers have the shapes that `estimate` fills."""


class Scorer(nn.Module):
    """Anything that ranks the catalogue. Controls derive from it directly; networks with states from `Network`."""

    n_items: int
    unread: Unread | None = None  # what it could not read, of a network that reads texts

    @abstractmethod
    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        """[B, V] scores of every item for every row, in row order. `asked` (bool[N]) marks the position of each row to read."""

    def score_among(self, batch: Batch, visible: Visibility, candidates: Tensor) -> Tensor:
        """[B, K] scores of the items `candidates` (int64[B, K], -1 where a row has fewer: any number) for every row.

        What `score` gives for them; a scorer that works item by item computes no others.
        """
        return self.score(batch, visible).gather(1, candidates.clamp_min(0))


class ControlScorer(Scorer):
    """A Scorer that learns by counting."""

    @abstractmethod
    def estimate(self, train: Train) -> None:
        """Fill the buffers from the training events alone."""

    def assign(self, tensors: dict[str, Tensor]) -> None:
        """Take saved buffers as they are, whatever their shape: sizes of counted tables are known only after `estimate`.

        tensors: what `state_dict()` gave. Raises CheckpointError if names, number types or numbers of axes differ from `build`.
        """
        own = dict(self.named_buffers())
        if own.keys() != tensors.keys():
            raise CheckpointError(
                needed=f"tensors {sorted(own)} for {type(self).__name__}",
                came=str(sorted(tensors)),
                remedy="load it as the system that was saved",
            )
        for name, value in tensors.items():
            if (value.dtype, value.ndim) != (own[name].dtype, own[name].ndim):
                raise CheckpointError(
                    needed=f"{name!r} as {own[name].dtype} with {own[name].ndim} axes",
                    came=f"{value.dtype} with {value.ndim}",
                    remedy="load it as the system that was saved",
                )
            setattr(self, name, value.to(own[name].device))


class Explained(Protocol):
    """Why an item, in words; networks add what else they know of it."""

    @property
    def text(self) -> str: ...


class Network(Scorer):
    """A Scorer with states: trained by gradient descent through an Objective.

    dim: width D of the states.
    """

    dim: int

    @abstractmethod
    def forward(self, batch: Batch, visible: Visibility, rng: torch.Generator | None = None, at: Tensor | None = None) -> Tensor:
        """[N, D] states, or [M, D] for the places `at` (int64[M], rising) alone. rng=None: no dropout."""

    @abstractmethod
    def output(self) -> Output:
        """The item space."""

    def read(self, states: Tensor) -> Tensor:
        """[M, D] states to [M, E] vectors of the item space."""
        return states

    def vectors(self, items: Tensor) -> Tensor:
        """[M, E]: some rows of the output table (items int64[M]), where a network can make them without all the others."""
        return self.output().table[items]

    def likelihood(
        self, batch: Batch, visible: Visibility, at: Tensor, target: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """[M]: log p(item target[m]) after the place at[m] (both int64[M], places rising), with gradients.

        Here by the softmax over the catalogue; of a network that answers in words, of the item's text, summed over its tokens.
        """
        scores = self.output().scores(self.read(self.forward(batch, visible, rng, at)))
        return scores.gather(1, target[:, None])[:, 0] - scores.logsumexp(1)

    def verdicts(
        self, batch: Batch, visible: Visibility, at: Tensor, items: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """[M, K]: log-odds that items[m, k] comes after the place at[m] (int64[M], rising; int64[M, K]), with gradients.

        Here the items' scores; of a network that is asked yes or no, log p(yes) - log p(no).
        """
        return self.output().scores_of(self.read(self.forward(batch, visible, rng, at)), items)

    def explain(self, batch: Batch, item: int, *, k: int = 1) -> tuple[Explained, ...]:
        """At most k reasons for an item, best first; none if there is none.

        batch: one row, the history in `item` (possibly nothing), the user's number in `rows["user"]` (-1: nobody known), and in
        `texts["feature"]` what should be spoken of (or None). Raises UserError for a network that gives no reasons.
        """
        raise UserError(
            needed="a system that explains, such as peter, pepler or plm-rec", came=type(self).__name__, remedy="fit one of them"
        )

    def placed(self, batch: Batch, visible: Visibility) -> Tensor | None:
        """[B, E]: the states whose products with `output` are `score`, in row order; None where a score is something else."""
        if type(self).score is not Network.score:
            return None
        return self.read(self.asked_states(batch, visible))

    def asked_states(self, batch: Batch, visible: Visibility) -> Tensor:
        """[M, D]: the states of the positions that are asked; a network may have a quicker way to them than `forward`."""
        return self.forward(batch, visible, at=batch.channels["asked"].nonzero()[:, 0])

    def score(self, batch: Batch, visible: Visibility) -> Tensor:
        return self.output().scores(self.read(self.asked_states(batch, visible)))
