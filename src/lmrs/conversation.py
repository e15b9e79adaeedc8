"""What somebody says to a recommender, as the dialogue that its view reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from lmrs.dataset import Dataset
from lmrs.decoding import Titles
from lmrs.decoding.mentions import Named, named
from lmrs.errors import UserError
from lmrs.models.network import Scorer
from lmrs.models.speaker import Speaker
from lmrs.records import COLUMNS
from lmrs.tasks import Conversing, Responding, Talking, Task
from lmrs.views import Replies, TurnRows
from lmrs.vocab import Vocab

ROLES = {
    "seeker": "seeker", "user": "seeker", "me": "seeker",
    "recommender": "recommender", "system": "recommender", "assistant": "recommender",
}  # fmt: skip
OTHER = {"seeker": "recommender", "recommender": "seeker"}
_PREFIX = re.compile(r"\s*(\w+)\s*:\s*(.*)", re.DOTALL)

Conversational = Conversing | Responding | Talking


@dataclass(frozen=True)
class Heard:
    """Turns in order: who speaks ("seeker" or "recommender"), and what was understood of it."""

    turns: tuple[tuple[str, Named], ...]

    @property
    def items(self) -> tuple[int, ...]:
        """All items that were named, in order."""
        return tuple(item for _, said in self.turns for item in said.items)

    def told(self, what: str) -> tuple[str, ...]:
        """`unmatched`, `ambiguous` or `unsure` pieces of all turns, each once."""
        return tuple(dict.fromkeys(piece for _, said in self.turns for piece in getattr(said, what)))


def heard(said: Sequence[str], titles: Titles) -> Heard:
    """Reads turns. Each begins with "User:" or "System:" (or Seeker, Recommender, Assistant), or takes turns with the one before.

    The first is the seeker's if it does not say so; what one says in a row is one turn. Raises UserError if nothing is said.
    """
    if isinstance(said, str):
        raise UserError(needed="a list of turns", came="a text", remedy='write ["User: I loved Heat (1995)"]')
    spoken: list[tuple[str, str]] = []
    for line in said:
        if not isinstance(line, str):
            raise UserError(needed="turns as text", came=f"{line!r}"[:60])
        found = _PREFIX.fullmatch(line)
        role = ROLES.get(found[1].lower()) if found else None
        text = found[2] if found and role else line
        role = role or (OTHER[spoken[-1][0]] if spoken else "seeker")
        text = " ".join(text.split())
        if not text:
            continue
        if spoken and spoken[-1][0] == role:
            spoken[-1] = (role, f"{spoken[-1][1]} {text}")
        else:
            spoken.append((role, text))
    if not spoken:
        raise UserError(needed="something said", came="nothing", remedy='such as "User: I loved Heat (1995)"')
    return Heard(tuple((role, named(text, titles)) for role, text in spoken))


def conversational(task: Task, name: str) -> Conversational:
    """The task as one that reads dialogues. Raises UserError, with those that do, for any other."""
    if not isinstance(task, Conversing | Responding | Talking):
        raise UserError(
            needed="a system that reads dialogues (unicrs, kbrd)",
            came=f"{name}, whose task is {type(task).__name__}",
            remedy="fit one of them on data with dialogues, or give a history",
        )
    return task


def question(said: Heard, task: Conversational, vocab: Vocab, catalogue: pa.Table | None) -> TurnRows:
    """What the recommender says next, as the one row of a data set of one dialogue."""
    items = np.array(said.items, np.int32)
    turns = [
        {"dialogue": 0, "turn": at, "role": role, "text": each.text, "items": list(each.items)}
        for at, (role, each) in enumerate(said.turns)
    ]
    turns.append({"dialogue": 0, "turn": len(turns), "role": "recommender", "text": "", "items": []})
    ends = np.cumsum([0, *(len(each["items"]) for each in turns)])  # type: ignore[arg-type]
    rows = [each | {"event": int(start)} for each, start in zip(turns, ends, strict=False)]
    table = pa.Table.from_pylist(rows, schema=pa.schema(list(COLUMNS["dialogues"].items())))
    data = Dataset("said", vocab, items, np.array([0, len(items)]), items=catalogue, records={"dialogues": table})
    first = max(0, len(items) - (task.view.max_len - 1))
    nobody = np.zeros(1, np.int64)
    return TurnRows(data, nobody, np.array([first]), np.array([len(items)]), np.array([len(rows) - 1]), nobody - 1)


def response(scorer: Scorer, task: Conversational, rows: TurnRows, device: torch.device | str) -> str | None:
    """What the system says, `records.SLOT` for each item; None for one that says nothing."""
    if not isinstance(scorer, Speaker) or not scorer.speaks or isinstance(task, Conversing):
        return None
    view: Replies = task.view if isinstance(task, Responding) else task.replies
    return scorer.write(view.collate(rows).to(device))[0]
