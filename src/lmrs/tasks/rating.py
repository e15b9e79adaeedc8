"""Rating: which rating will a user give to an item? Every rated event of a part is a question (P5, PETER, PEPLER)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
import torch

from lmrs.errors import ContractError, DataError, UserError
from lmrs.measures import MAE, RMSE, parse
from lmrs.models.explainer import Explainer
from lmrs.models.network import Scorer
from lmrs.objectives import Objective
from lmrs.split import Queries
from lmrs.tasks.explaining import user_numbers
from lmrs.tasks.task import Answered, AnyMeasure, RecordTask
from lmrs.views.events import EventRows, Events
from lmrs.views.reviews import pairs
from lmrs.vocab import Vocab

if TYPE_CHECKING:
    from lmrs.progress import Reporter

BLOCK = 64  # questions asked at once


@dataclass(frozen=True)
class Rating(RecordTask):
    """For every true event of a part that was rated, the rating, from the user and the item (and what was said, for models that
    read reviews). Predictions are clipped to the ratings that the data set has.

    RMSE, MAE: over all questions together, one number each.
    """

    view: Events = Events()  # noqa: RUF009 - a frozen value

    measures: ClassVar[tuple[str, ...]] = ("RMSE", "MAE")
    among: ClassVar[str] = "none: ratings are predicted"

    def measure(self, name: str) -> AnyMeasure:
        if name.strip().upper() not in self.measures:
            raise UserError(needed="the measure RMSE or MAE for predicted ratings", came=name, remedy="use RMSE")
        return parse(name)

    def rows(self, queries: Queries) -> EventRows:
        rating = queries.dataset.rating
        rows = self.view.held_out(queries)
        rated = np.zeros(0, np.int64) if rating is None else np.flatnonzero(np.isfinite(np.asarray(rating)[rows.place]))
        if not len(rated):
            raise DataError(needed="ratings", came=f"{queries.dataset.name} without", remedy="ask for something else")
        return rows.take(rated)

    def judge(
        self,
        scorer: Scorer,
        objective: Objective | None,
        rows: EventRows,
        vocab: Vocab,
        *,
        measures: Sequence[AnyMeasure],
        seed: int,
        device: torch.device | str = "cpu",
        reporter: Reporter | None = None,
    ) -> Answered:
        if not isinstance(scorer, Explainer):
            raise ContractError(needed="a model that rates, such as models.Answering", came=type(scorer).__name__)
        users, data = user_numbers(rows, vocab)[rows.user], rows.dataset
        assert data.rating is not None
        truth = np.asarray(data.rating)[rows.place].astype(np.float64)
        found = np.zeros(len(rows))
        if reporter is not None:
            reporter.begin("rating", len(rows))
        for begin in range(0, len(rows), BLOCK):
            some = rows.take(np.arange(begin, min(begin + BLOCK, len(rows))))
            batch = self.view.collate(some)
            back, here = torch.argsort(batch.rows["example"]).tolist(), slice(begin, begin + len(some))
            texts: dict[str, Sequence[str | None]] = {name: [text[at] for at in back] for name, text in batch.texts.items()}
            rated = scorer.rate(pairs(users[here], data.item[some.place], texts=texts).to(device))
            if rated is None:
                raise ContractError(
                    needed="a model that learned ratings", came=f"{type(scorer).__name__} without", remedy="add the family rating"
                )
            found[here] = rated.double().cpu().numpy()
            if reporter is not None:
                reporter.step(by=len(some))
        rating = np.asarray(data.rating)
        found = found.clip(np.nanmin(rating), np.nanmax(rating))
        items = data.vocab.items.cast(pa.large_string()).take(pa.array(data.item[rows.place]))
        return Answered(
            values={str(each): each(found, truth) for each in measures if isinstance(each, RMSE | MAE)},
            user=rows.user,
            targets=np.ones(len(rows), np.int64),
            columns={"item": items, "rating": pa.array(truth), "predicted": pa.array(found)},
            facts={
                "users_without_training_event": int((scorer.said.users[users] == 0).sum()),
                "mean_rating": float(truth.mean()),
            },
        )
