"""Dialogues about films (ReDial, Li et al. 2018): the dialogues are the users, every mention of a film is an event.

Two forms are read: the JSON lines of the data's authors (`train_data.jsonl`, `test_data.jsonl`, ...: what is in the folder), and
one Parquet table `dialogues.parquet` with conversation_id, initiator_id, respondent_id, movie_mentions, initiator_answers and
messages as nested columns. Beside the table may stand `movie_entities.parquet` (movie_id, dbpedia_uri, entity_id),
`entities.parquet` (entity_id, dbpedia_uri) and `kg_triples.parquet` (head, relation, tail): a knowledge graph.

What was said goes to `records["dialogues"]`: messages of one speaker in a row are one turn (as KBRD and UniCRS read them),
`@12345` is the slot of a film, HTML entities and white space are put right. The initiator seeks, the respondent recommends.
The type of an event says who named the film and what the seeker answered *after* the dialogue (liked, disliked):
no input for a model. Of the graph only edges with a film at one end are kept; relations have the numbers that the files give.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.records import COLUMNS, ROLES, SLOT
from lmrs.sources.assemble import assemble, kept, with_records
from lmrs.sources.rejects import Reject, Rejects

TYPES = tuple(f"{role}{answer}" for role in ROLES for answer in ("", ", disliked", ", liked"))
_MENTION = re.compile(r"@(\d+)")
_GRAPH = ("movie_entities.parquet", "entities.parquet", "kg_triples.parquet")


def dialogues(path: Path) -> list[Path]:
    """The files of dialogues in a folder; none if it is no such folder."""
    if not path.is_dir():
        return []
    if (path / "dialogues.parquet").exists():
        return [path / "dialogues.parquet"]
    return sorted(path.glob("*_data.jsonl"))


def load_dialogues(
    path: Path, *, cache: Path, lenient: bool = False, quarantine: Path | None = None, name: str | None = None
) -> Dataset:
    """The Dataset of a folder of dialogues. Raises DataError, with file and line, for a dialogue that cannot be read."""
    files, name = dialogues(path), name or path.resolve().name
    beside = [path / each for each in _GRAPH if (path / each).exists()] if files and files[0].suffix == ".parquet" else []
    return kept(
        lambda aside: _build(files, path if len(beside) == len(_GRAPH) else None, name=name, aside=aside),
        name=name,
        files=[*files, *beside],
        recipe={"reader": "dialogues 1"},
        cache=cache,
        lenient=lenient,
        quarantine=quarantine,
    )


@dataclass
class _Read:
    """What has been read so far: the turns, and the films in order of first mention."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    users: list[str] = field(default_factory=list)
    parts: list[str | None] = field(default_factory=list)
    films: dict[str, int] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    silent: int = 0

    def add(self, told: dict[str, Any], part: str | None) -> None:
        """One dialogue, as `_plain` gives it."""
        known = {film: " ".join(html.unescape(title or "").split()) for film, title in told["films"].items()}
        turns: list[tuple[int, str, list[str]]] = []
        for sender, text in told["messages"]:
            role = 1 if sender == told["respondent"] else 0
            said, named = _slots(text, known)
            if not said:
                continue
            if turns and turns[-1][0] == role:
                said, named = f"{turns[-1][1]} {said}", turns[-1][2] + named
                turns.pop()
            turns.append((role, said, named))
        if not any(named for _, _, named in turns):
            self.silent += 1
            return
        user, begin = len(self.users), len(self.items)
        for at, (role, said, named) in enumerate(turns):
            numbers = [self.films.setdefault(film, len(self.films)) for film in named]
            self.rows.append(
                {"dialogue": user, "turn": at, "role": ROLES[role], "text": said, "items": numbers, "event": len(self.items)}
            )
            self.items += numbers
            self.types += [3 * role + {0: 1, 1: 2}.get(told["liked"].get(film, -1), 0) for film in named]
        self.titles |= {film: title for film, title in known.items() if title and film not in self.titles}
        self.users.append(told["id"])
        self.parts.append(part)
        self.lengths.append(len(self.items) - begin)


def _slots(text: str, known: dict[str, str]) -> tuple[str, list[str]]:
    """(the text with a slot for each film that is known, those films). A slot that the text itself spells is dropped."""
    plain = " ".join(html.unescape(text).replace(SLOT, " ").split())
    named = [film for film in _MENTION.findall(plain) if film in known]
    return _MENTION.sub(lambda found: SLOT if found[1] in known else found[0], plain), named


def _build(files: list[Path], graph: Path | None, *, name: str, aside: Path | None) -> Dataset:
    read, judges = _Read(), []
    for file in files:
        judges.append(Rejects(file.name, unit="line" if file.suffix == ".jsonl" else "row", quarantine=aside))
        for line, raw, part in _rows(file):
            try:
                read.add(_plain(json.loads(raw) if isinstance(raw, str) else raw), part)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                judges[-1].take([Reject(line, "", f"no dialogue ({type(error).__name__}: {error})", str(raw))])
    if not read.users:
        raise DataError(needed=f"dialogues that name a film in {files[0].parent}", came="none", remedy="is it ReDial?")
    if len(set(read.users)) < len(read.users):
        raise DataError(needed="dialogues with ids of their own", came="one that comes twice", remedy="keep one of the files")
    films, titles, edges = list(read.films), dict(read.titles), None
    if graph is not None:
        films, titles, edges = _graph(graph, films, titles)
    ids = pa.array(films, pa.large_string())
    dataset, _ = assemble(
        name=name,
        user=np.repeat(np.arange(len(read.users)), read.lengths),
        item=np.array(read.items, np.int32),
        users=pa.table({"user_id": pa.array(read.users, pa.large_string()), "split": pa.array(read.parts, pa.large_string())}),
        items=pa.table({"item_id": ids, "title": pa.array([titles.get(film) for film in films], pa.large_string())}),
        about={
            "quarantined": sum(each.count for each in judges),
            "quarantine_reasons": {reason: count for each in judges for reason, count in each.reasons.items()},
            "order": "order of the mentions",
            "order_known": True,
            "notes": [
                f"{len(read.users):,} dialogues are the users, {len(films):,} films the items, mentions the events",
                f"{len(read.rows):,} turns (messages of one speaker in a row are one)",
                f"{read.silent:,} dialogues name no film and are left out",
                "types of events hold what the seeker answered after the dialogue: no input for a model",
            ],
        },
    )
    dataset = replace(dataset, type=np.array(read.types, np.int32), types=TYPES, edges=edges)
    return with_records(dataset, dialogues=pa.Table.from_pylist(read.rows, schema=pa.schema(list(COLUMNS["dialogues"].items()))))


def _rows(file: Path) -> Iterator[tuple[int, Any, str | None]]:
    """(line or row, the dialogue as JSON text or as nested values, the part of the authors' split it is of)."""
    if file.suffix == ".jsonl":
        with file.open(encoding="utf-8") as lines:
            for at, line in enumerate(lines):
                if line.strip():
                    yield at + 1, line, file.name.removesuffix("_data.jsonl")
        return
    table = pq.read_table(file)
    wanted = ("conversation_id", "initiator_id", "respondent_id", "movie_mentions", "messages")
    if lost := [column for column in wanted if column not in table.column_names]:
        raise DataError(needed=f"columns {', '.join(wanted)} in {file.name}", came="no " + ", ".join(lost))
    for at, row in enumerate(table.to_pylist()):
        yield at + 1, row, row.get("split")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """One dialogue of either form in the same words."""
    if "conversationId" in row:
        films, answers = row["movieMentions"] or {}, row.get("initiatorQuestions") or {}
        return {
            "id": str(row["conversationId"]),
            "respondent": row["respondentWorkerId"],
            "films": {str(film): title for film, title in films.items()},
            "liked": {str(film): answer["liked"] for film, answer in answers.items()},
            "messages": [(each["senderWorkerId"], each["text"]) for each in row["messages"]],
        }
    return {
        "id": str(row["conversation_id"]),
        "respondent": row["respondent_id"],
        "films": {each["movie_id"]: each["title"] for each in row["movie_mentions"]},
        "liked": {each["movie_id"]: each["liked"] for each in row.get("initiator_answers") or []},
        "messages": [(each["sender_id"], each["text"]) for each in row["messages"]],
    }


def _graph(folder: Path, films: list[str], titles: dict[str, str]) -> tuple[list[str], dict[str, str], pa.Table]:
    """(all films, those of the graph that nobody named last; their titles; the edges with a film at one end)."""
    of_film = pq.read_table(folder / _GRAPH[0]).to_pydict()
    number = {film: at for at, film in enumerate(films)}
    for film in of_film["movie_id"]:
        number.setdefault(film, len(number))
    name = {at: _named(uri) for at, uri in zip(*pq.read_table(folder / _GRAPH[1]).to_pydict().values(), strict=True) if uri}
    item = {entity: number[film] for film, entity in zip(of_film["movie_id"], of_film["entity_id"], strict=True)}
    titles = dict(titles)
    for film, uri in zip(of_film["movie_id"], of_film["dbpedia_uri"], strict=True):
        if uri:
            titles.setdefault(film, _named(uri))
    head, kind, tail = pq.read_table(folder / _GRAPH[2]).select(["head", "relation", "tail"]).to_pydict().values()
    rows = [(h, k, t) for h, k, t in zip(head, kind, tail, strict=True) if h != t and (h in item or t in item)]
    text, whole = pa.large_string(), pa.int32()
    heads, kinds, tails = zip(*rows, strict=True) if rows else ((), (), ())
    edges = pa.table(
        {
            "head": pa.array([name.get(each, f"entity {each}") for each in heads], text),
            "relation": pa.array([f"relation {each}" for each in kinds], text),
            "tail": pa.array([name.get(each, f"entity {each}") for each in tails], text),
            "head_item": pa.array([item.get(each) for each in heads], whole),
            "tail_item": pa.array([item.get(each) for each in tails], whole),
        }
    )
    return list(number), titles, edges


def _named(uri: str) -> str:
    """<http://dbpedia.org/resource/Toy_Story> as "Toy Story"."""
    return unquote(uri.strip("<>").rsplit("/", 1)[-1]).replace("_", " ")
