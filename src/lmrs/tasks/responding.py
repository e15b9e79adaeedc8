"""Responding: what does the recommender say next? Judged against what was said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch

from lmrs.errors import DataError, UserError
from lmrs.measures import Likelihoods, TextMeasure, Texts, parse_text
from lmrs.measures.likelihood import PPL
from lmrs.models.network import Scorer
from lmrs.models.speaker import speaker
from lmrs.objectives import Objective
from lmrs.records import SLOT
from lmrs.split import Queries
from lmrs.tasks.conversing import unseen
from lmrs.tasks.task import Answered, AnyMeasure, RecordTask
from lmrs.views import ItemSequence
from lmrs.views.dialogues import Replies, TurnRows, dialogues_of
from lmrs.vocab import Vocab

if TYPE_CHECKING:
    from lmrs.progress import Reporter

BLOCK = 32  # turns asked at once
ITEM = "<item>"  # how a slot is written in the table of answers


@dataclass(frozen=True)
class Responding(RecordTask):
    """Every held-out turn of the recommender is a question, whether it names an item or not.

    Which turns are held out is told by `Conversing`. An item within a response is one word, the slot: the measures see that one
    was named and not which (as in the code of UniCRS). `Distinct-n[responses]` is the variety "per sentence" of the survey's
    Table 3, SentenceBLEU-n is of order n alone. PPL is a token of the model's own, the end and the slots counted: never compare
    it between models of different tokens.
    """

    view: Replies = Replies()  # noqa: RUF009 - a frozen value

    measures: ClassVar[tuple[str, ...]] = (
        "PPL", "Distinct-2[responses]", "Distinct-3[responses]", "Distinct-4[responses]", "SentenceBLEU-2", "SentenceBLEU-3",
        "ItemRatio",
    )  # fmt: skip
    among: ClassVar[str] = "none: texts are written"

    @property
    def serving(self) -> ItemSequence:
        """A bare history is what was named so far."""
        return ItemSequence(max_len=self.view.max_len)

    def measure(self, name: str) -> AnyMeasure:
        found = parse_text(name)
        if str(found).split("-")[0] in ("FMR", "FCR", "DIV"):
            raise UserError(needed="a measure of responses", came=repr(name), remedy=f"such as {self.measures[1]}")
        return found

    def rows(self, queries: Queries) -> TurnRows:
        return self.view.within(queries.dataset, *unseen(queries))

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
        network = speaker(scorer)
        if not len(rows):
            raise DataError(needed="at least one turn to answer with", came="none", remedy="choose another split")
        writes, judges = (any(isinstance(each, kind) for each in measures) for kind in (TextMeasure, PPL))
        total, tokens = np.zeros(len(rows)), np.zeros(len(rows), np.int64)
        written, wanted = [""] * len(rows), [""] * len(rows)
        if reporter is not None:
            reporter.begin("responding", len(rows))
        order = np.argsort(-dialogues_of(rows.dataset).turn[rows.turn], kind="stable")  # texts of one length together
        for begin in range(0, len(rows), BLOCK):
            which = order[begin : begin + BLOCK]
            batch = self.view.collate(rows.take(which)).to(device)
            place = which[batch.rows["example"].cpu().numpy()]
            with torch.no_grad():
                if judges:
                    told = network.tell(batch)
                    total[place], tokens[place] = told.total.double().cpu().numpy().clip(max=0.0), told.tokens.cpu().numpy()
                said = network.write(batch) if writes else [""] * len(which)
            for at, text, reference in zip(place.tolist(), said, batch.texts["response"], strict=True):
                written[at], wanted[at] = text, reference or ""
            if reporter is not None:
                reporter.step(by=len(which))
        texts = Texts(tuple(written), tuple(wanted))
        columns: dict[str, pa.Array] = {}
        if writes:
            shown = {"generated": written, "reference": wanted}
            columns |= {name: pa.array([_shown(text) for text in each], pa.large_string()) for name, each in shown.items()}
        if judges:
            columns |= {"log_likelihood": pa.array(total), "tokens": pa.array(tokens)}
        return Answered(
            values={str(m): m(Likelihoods(total, tokens)) if isinstance(m, PPL) else _of(m, texts) for m in measures},
            user=rows.user,
            targets=np.ones(len(rows), np.int64),
            columns=columns,
            facts={
                "dialogues": float(len(np.unique(rows.user))),
                "items_in_references": float(np.mean([text.count(SLOT) for text in wanted])),
            },
        )


def _of(measure: AnyMeasure, texts: Texts) -> np.ndarray | float:
    if not isinstance(measure, TextMeasure):
        raise UserError(needed="a measure of responses", came=str(measure), remedy="such as SentenceBLEU-2")
    return measure(texts)


def _shown(text: str) -> str:
    """A text a person can read; one that spells the sign of a slot itself is kept apart."""
    return text.replace(ITEM, ITEM.replace("<", "< ")).replace(SLOT, ITEM)
