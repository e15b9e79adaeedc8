"""The contract of a task whose questions are records of a Dataset (impressions, reviews, dialogues) and not its next events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch

from lmrs.measures import Measure, TextMeasure
from lmrs.measures.likelihood import PPL
from lmrs.models.network import Scorer
from lmrs.objectives import Objective
from lmrs.split import Queries
from lmrs.tasks.ranking import Ranking
from lmrs.views import Examples, ItemSequence, View
from lmrs.vocab import Vocab

if TYPE_CHECKING:
    from lmrs.progress import Reporter

AnyMeasure = Measure | TextMeasure | PPL


@dataclass(frozen=True, eq=False)
class Answered:
    """What a system answered to n questions, and how good that was.

    values: by the name of the measure float64[n], one number a question, or one number for all. user: int64[n].
    targets: int64[n], how much there was to be found. columns: what else belongs into the table of answers, n rows each (texts
    that were written). facts: counts for the report.
    """

    values: dict[str, np.ndarray | float]
    user: np.ndarray
    targets: np.ndarray
    columns: dict[str, pa.Array] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)


class RecordTask(ABC):
    """A frozen value. `Ranking` is the other kind of task: it asks for next events.

    view: how a question is read. serving: how a bare history is read, for `Recommender.recommend`; None where a history alone is
    no question. measures: what is reported if nobody says what. among: which candidates are ranked, for the protocol card.
    seen: what becomes of items that the user already had, for the same card.
    """

    view: View
    measures: ClassVar[tuple[str, ...]]
    among: ClassVar[str] = "all"
    seen: ClassVar[str] = "kept"

    @property
    def serving(self) -> ItemSequence | None:
        return None

    @abstractmethod
    def measure(self, name: str) -> AnyMeasure:
        """The measure of that name. Raises UserError for one that does not judge this task."""

    @abstractmethod
    def rows(self, queries: Queries) -> Examples:
        """The records whose events are the truth of the queries: what a part of a split asks.

        Raises DataError if the data has no such records.
        """

    @abstractmethod
    def judge(
        self,
        scorer: Scorer,
        objective: Objective | None,
        rows: Any,
        vocab: Vocab,
        *,
        measures: Sequence[AnyMeasure],
        seed: int,
        device: torch.device | str = "cpu",
        reporter: Reporter | None = None,
    ) -> Answered:
        """Asks all rows, in bounded memory. seed: of ties and of what is drawn."""


Task = Ranking | RecordTask
