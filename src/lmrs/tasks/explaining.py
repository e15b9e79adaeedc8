"""Explaining: given a user and an item, write why the user chose it; judged against what the user said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from lmrs.batch import Batch
from lmrs.dataset import Dataset
from lmrs.errors import ContractError, DataError, UserError
from lmrs.measures import DIV, FCR, FMR, MAE, RMSE, Likelihoods, TextMeasure, Texts, parse, parse_text
from lmrs.measures.likelihood import PPL
from lmrs.measures.words import WORDS, first_words
from lmrs.models.explainer import Explainer
from lmrs.models.network import Scorer
from lmrs.objectives import Objective
from lmrs.split import Queries
from lmrs.tasks.task import Answered, AnyMeasure, RecordTask
from lmrs.views.events import EventRows
from lmrs.views.reviews import ReviewRows, Reviews, pairs
from lmrs.vocab import Vocab

if TYPE_CHECKING:
    from lmrs.progress import Reporter

BLOCK = 64  # pairs asked at once
OF_FEATURES = (FMR, FCR, DIV)


@dataclass(frozen=True)
class Explaining(RecordTask):
    """Every review of a part is a question: its user and item (and its feature, for models that read one).

    Both texts are judged as lower-case words with punctuation apart, cut after `view.longest` words. FMR is taken over the pairs
    that have a feature, FCR and DIV over all features of the data set, RMSE and MAE over the pairs that have a rating, with
    predictions clipped to the ratings that the data set has. A measure that the data or the model cannot give is left out of
    the report. PPL is a token of the model's own: never compare it between models of different words.
    """

    view: Reviews = Reviews()  # noqa: RUF009 - a frozen value

    measures: ClassVar[tuple[str, ...]] = (
        "PPL", "BLEU-1", "BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L", "USR", "Distinct-2", "FMR", "FCR", "DIV", "RMSE", "MAE",
    )  # fmt: skip
    among: ClassVar[str] = "none: texts are written"

    def measure(self, name: str) -> AnyMeasure:
        found: AnyMeasure = parse(name) if name.strip().lower() in ("rmse", "mae") else parse_text(name)
        return found

    def rows(self, queries: Queries) -> ReviewRows:
        return self.view.held_out(queries)

    def judge(
        self,
        scorer: Scorer,
        objective: Objective | None,
        rows: ReviewRows,
        vocab: Vocab,
        *,
        measures: Sequence[AnyMeasure],
        seed: int,
        device: torch.device | str = "cpu",
        reporter: Reporter | None = None,
    ) -> Answered:
        if not isinstance(scorer, Explainer):
            raise ContractError(needed="a model that explains, such as models.Peter or models.Pepler", came=type(scorer).__name__)
        if not len(rows):
            raise DataError(needed="at least one review to be explained", came="none", remedy="choose another split")
        writes, judges, rates = (any(isinstance(each, kind) for each in measures) for kind in (TextMeasure, PPL, RMSE | MAE))
        users = user_numbers(rows, vocab)
        if reporter is not None:
            reporter.begin("explaining", len(rows))
        found = _Found(rows.dataset)
        for begin in range(0, len(rows), BLOCK):
            some = rows.take(np.arange(begin, min(begin + BLOCK, len(rows))))
            batch = self.view.collate(some)
            batch = pairs(users[some.user], some.item, rating=batch.rows["rating"].numpy(), texts=dict(batch.texts)).to(device)
            found.take(scorer, batch, writes=writes, judges=judges, rates=rates)
            if reporter is not None:
                reporter.step(by=len(some))
        values = {str(each): value for each in measures if (value := found.value(each, self.view.longest)) is not None}
        if not values:
            raise DataError(
                needed=f"data and a model that can be measured by {', '.join(map(str, measures))}",
                came=f"{type(scorer).__name__} on {rows.dataset.name}",
                remedy="choose other measures",
            )
        said = scorer.said
        return Answered(
            values=values,
            user=rows.user,
            targets=np.ones(len(rows), np.int64),
            columns=found.columns(rows) if writes else {},
            facts={
                "with_feature": sum(text is not None for text in found.features),
                "with_rating": int(np.isfinite(found.truth()).sum()),
                "users_without_training_review": int((said.users[users[rows.user]] == 0).sum()),
                "items_without_training_review": int((said.items[rows.item] == 0).sum()),
            },
        )


class _Found:
    """What was answered so far."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.written: list[str] = []
        self.references: list[str] = []
        self.features: list[str | None] = []
        self.total: list[float] = []
        self.tokens: list[int] = []
        self.ratings: list[np.ndarray] = []
        self.predicted: list[np.ndarray] = []

    @torch.no_grad()
    def take(self, scorer: Explainer, batch: Batch, *, writes: bool, judges: bool, rates: bool) -> None:
        self.references += [text or "" for text in batch.texts["explanation"]]
        self.features += batch.texts["feature"]
        self.ratings.append(batch.rows["rating"].cpu().numpy())
        if writes:
            self.written += scorer.write(batch)
        if judges:
            told = scorer.tell(batch)
            self.total.append(min(0.0, float(told.text)))
            self.tokens.append(told.tokens)
        if rates and (rating := scorer.rate(batch)) is not None:
            self.predicted.append(rating.float().cpu().numpy())

    def truth(self) -> np.ndarray:
        return np.concatenate(self.ratings).astype(np.float64)

    def value(self, measure: AnyMeasure, longest: int) -> np.ndarray | float | None:
        """None where there is nothing to measure."""
        if isinstance(measure, PPL):
            return measure(Likelihoods(np.array(self.total), np.array(self.tokens)))
        if isinstance(measure, RMSE | MAE):
            rated = np.isfinite(self.truth())
            if not self.predicted or not rated.any():
                return None
            assert self.dataset.rating is not None  # some are finite
            least, most = np.nanmin(self.dataset.rating), np.nanmax(self.dataset.rating)
            return measure(np.concatenate(self.predicted).astype(np.float64).clip(least, most)[rated], self.truth()[rated])
        if not isinstance(measure, TextMeasure):
            raise UserError(needed="a measure of texts or of ratings", came=str(measure), remedy="such as BLEU-4")
        written, references = ([_plain(text, longest) for text in texts] for texts in (self.written, self.references))
        if not isinstance(measure, OF_FEATURES):
            return measure(Texts(tuple(written), tuple(references)))
        every = _features(self.dataset)
        wanted = [_plain(text or "", longest) for text in self.features]
        if not every:
            return None
        if not isinstance(measure, FMR):
            return measure(Texts(tuple(written), all_features=every))
        told = [at for at, text in enumerate(wanted) if text]
        if not told:
            return None
        matched = measure(Texts(tuple(written[at] for at in told), features=tuple(wanted[at] for at in told)))
        return matched if len(told) == len(wanted) else float(np.mean(matched))

    def columns(self, rows: ReviewRows) -> dict[str, pa.Array]:
        """What was written, beside what was said."""
        ids = rows.dataset.vocab.items.cast(pa.large_string()).take(pa.array(rows.item))
        return {
            "item": ids,
            "feature": pa.array(self.features, pa.large_string()),
            "generated": pa.array(self.written, pa.large_string()),
            "reference": pa.array(self.references, pa.large_string()),
        }


def _plain(text: str, longest: int) -> str:
    return " ".join(WORDS["words"](first_words(text, longest)))


def _features(dataset: Dataset) -> tuple[str, ...]:
    """All features of the data set, as words."""
    column = dataset.records["reviews"].column("feature")
    plain = {" ".join(WORDS["words"](text)) for text in pc.unique(column).to_pylist() if text}
    return tuple(sorted(plain - {""}))


def user_numbers(rows: ReviewRows | EventRows, vocab: Vocab) -> np.ndarray:
    """int64[U]: the model's number of each user of the data. Raises DataError if one is asked for whom it does not know."""
    ids = rows.dataset.vocab.users
    if ids.equals(vocab.users):
        return np.arange(len(ids))
    numbers = vocab.user_numbers(ids.cast(vocab.users.type))
    strangers = np.unique(rows.user[numbers[rows.user] < 0])
    if len(strangers):
        raise DataError(
            needed="data of the users that the model was trained on",
            came=f"{len(strangers):,} others, such as {ids[int(strangers[0])].as_py()!r}",
            remedy="evaluate on its own data, or fit anew",
        )
    return numbers
