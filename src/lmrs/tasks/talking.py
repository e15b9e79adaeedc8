"""Talking: conversing and responding at once, by one system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch

from lmrs.errors import ContractError, UserError
from lmrs.measures import RankMeasure
from lmrs.models.network import Scorer
from lmrs.objectives import Objective
from lmrs.split import Queries
from lmrs.tasks.conversing import Conversing
from lmrs.tasks.responding import Responding
from lmrs.tasks.task import Answered, AnyMeasure, RecordTask
from lmrs.views import ItemSequence
from lmrs.views.dialogues import Replies, TurnRows, Turns
from lmrs.vocab import Vocab

if TYPE_CHECKING:
    from lmrs.progress import Reporter


@dataclass(frozen=True, eq=False)
class TalkRows:
    """The questions of both kinds. They cannot be taken apart by number."""

    items: TurnRows
    replies: TurnRows

    @property
    def user(self) -> np.ndarray:
        return np.concatenate([self.items.user, self.replies.user])

    def __len__(self) -> int:
        return len(self.items) + len(self.replies)

    def take(self, which: np.ndarray) -> TalkRows:
        raise ContractError(needed="questions of one kind", came="items and responses", remedy="take of .items or .replies")


@dataclass(frozen=True)
class Talking(RecordTask):
    """What `Conversing` asks, of every item that a held-out turn names, and what `Responding` asks, of every such turn.

    Measures of one kind give a table with one row a question. Where both kinds are wanted, a row is an item that was asked for,
    beside it stands what was written for its turn, and the measures of responses, those to turns without items included, are one
    number each, without interval: ask for them alone to have these.
    """

    view: Turns = Turns()  # noqa: RUF009 - a frozen value
    replies: Replies = Replies()  # noqa: RUF009

    measures: ClassVar[tuple[str, ...]] = (*Conversing.measures, *Responding.measures)

    @property
    def items(self) -> Conversing:
        return Conversing(self.view)

    @property
    def responses(self) -> Responding:
        return Responding(self.replies)

    @property
    def serving(self) -> ItemSequence:
        return self.items.serving

    def measure(self, name: str) -> AnyMeasure:
        try:
            return self.responses.measure(name)
        except UserError:
            return self.items.measure(name)

    def rows(self, queries: Queries) -> TalkRows:
        return TalkRows(self.items.rows(queries), self.responses.rows(queries))

    def judge(
        self,
        scorer: Scorer,
        objective: Objective | None,
        rows: TalkRows,
        vocab: Vocab,
        *,
        measures: Sequence[AnyMeasure],
        seed: int,
        device: torch.device | str = "cpu",
        reporter: Reporter | None = None,
    ) -> Answered:
        ranks = [each for each in measures if isinstance(each, RankMeasure)]
        texts = [each for each in measures if not isinstance(each, RankMeasure)]
        how: dict[str, Any] = {"seed": seed, "device": device, "reporter": reporter}
        of_items = self.items.judge(scorer, objective, rows.items, vocab, measures=ranks, **how) if ranks else None
        of_texts = self.responses.judge(scorer, objective, rows.replies, vocab, measures=texts, **how) if texts else None
        if of_items is None or of_texts is None:
            found = of_items or of_texts
            assert found is not None, "no measure"
            return found
        means = {name: float(np.mean(value)) for name, value in of_texts.values.items()}
        turn = pa.array(np.searchsorted(rows.replies.turn, rows.items.turn))  # those are all turns in order, these some of them
        return Answered(
            values={str(each): (of_items.values | means)[str(each)] for each in measures},
            user=of_items.user,
            targets=of_items.targets,
            columns={name: column.take(turn) for name, column in of_texts.columns.items()},
            facts=of_texts.facts | of_items.facts | {"responses": float(len(rows.replies))},
        )
