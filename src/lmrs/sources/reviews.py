"""Reviews and explanations: interactions whose rows also say what the user wrote.

Any table of interactions that `sources.load` understands will do if it has text beside: `sources.load("reviews:PATH")` reads the
events as `load(PATH)` does, and puts the text into `records["reviews"]` (columns in `lmrs.records`).

| column of the record | names it is found under |
|---|---|
| text | review, text, review_text, reviewtext, body, comment |
| title | summary, review_title, headline; `title` too if an item has several (else it is the name of the item) |
| feature, opinion | feature, aspect; opinion, adjective, adj |
| explanation | explanation, sentence, template_sentence |

Text columns that begin with item_ or user_ (item_summary, ...) and have one value for each go to the table of items or users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.numbering import Numbering
from lmrs.records import COLUMNS
from lmrs.sources import catalogue, check
from lmrs.sources.assemble import assemble, kept, known, with_records
from lmrs.sources.catalogue import TableFile, Where
from lmrs.sources.columns import TITLES, find, fold
from lmrs.sources.folder import layout
from lmrs.sources.prepare import Layout
from lmrs.sources.rejects import Reject, Rejects
from lmrs.vocab import Attributes

TEXT = pa.large_string()
SAID = {
    "title": ("summary", "review_title", "headline"),
    "text": ("review", "text", "review_text", "reviewtext", "body", "comment"),
    "feature": ("feature", "aspect"),
    "opinion": ("opinion", "adjective", "adj"),
    "explanation": ("explanation", "sentence", "template_sentence"),
}


def load_reviews(
    path: Path,
    *,
    given: Mapping[str, str],
    cache: Path,
    lenient: bool = False,
    time_unit: str | None = None,
    quarantine: Path | None = None,
    name: str | None = None,
) -> Dataset:
    """The Dataset of a folder or a file of reviews; `records["reviews"]` has one row an event, in file order.

    given: {role: column} from the user. Empty text counts as none. lenient, time_unit, quarantine: as for `sources.load`.
    Raises DataError for a bad row, and if there is no column of text.
    """
    found = layout(path, given=given, name=name)
    if found.lists:
        raise DataError(needed=f"one row a review in {path}", came="lists of items", remedy="load it without 'reviews:'")
    return kept(
        lambda aside: _build(found, time_unit=time_unit, aside=aside),
        name=found.name,
        files=[file.path for file in (found.events, found.items, found.users) if file is not None],
        recipe={"reader": "reviews 1", "columns": found.roles, "time_unit": time_unit},
        cache=cache,
        lenient=lenient,
        quarantine=quarantine,
    )


def _build(found: Layout, *, time_unit: str | None, aside: Path | None) -> Dataset:
    judges: list[Rejects] = []

    def judge(file: TableFile) -> Rejects:
        judges.append(Rejects(file.path.name, unit="row" if file.dialect is None else "line", quarantine=aside))
        return judges[-1]

    rejects = judge(found.events)
    raw, where = catalogue.read(found.events, rejects)
    said = _said(raw.column_names, found)
    raw, cells = _checked(raw, found.roles, where, rejects, check.Clock(unit=time_unit))
    if not raw.num_rows:
        raise DataError(needed=f"reviews in {found.events.path}", came="none that can be used", remedy="is it the right file?")
    users, items = Numbering(), Numbering()
    user, item = users.add(cells["user"]), items.add(cells["item"])
    texts = {column: _text(raw.column(name)) for column, name in said.items()}
    texts, of_item, of_user = _shared(raw, texts, found.roles, item=item, user=user)

    user_table, _, notes = _table("user_id", users, found.users, found.user_key, of_user, user, judge)
    item_table, attributes, more = _table("item_id", items, found.items, found.item_key, of_item, item, judge)
    timed = "time" in cells
    dataset, place = assemble(
        name=found.name,
        user=user,
        item=item,
        time=cells.get("time"),
        rating=cells.get("rating"),
        users=user_table,
        items=item_table,
        attributes=attributes,
        about={
            "columns": found.roles,
            "text_columns": said,
            "guessed": list(found.guessed),
            "quarantined": rejects.count,
            "quarantined_beside": {each.file: each.count for each in judges[1:] if each.count},
            "quarantine_reasons": dict(rejects.reasons),
            "order": "time, then file order" if timed else "file order (no time column)",
            "order_known": timed,
            "notes": [*found.notes, *_counted(texts), *notes, *more],
        },
    )
    kinds = COLUMNS["reviews"]
    columns = {name: texts.get(name, pa.nulls(raw.num_rows, TEXT)) for name in kinds if name not in ("user", "item", "event")}
    numbers = {"user": user.astype(np.int32), "item": item.astype(np.int32), "event": place}
    return with_records(dataset, reviews=pa.table(numbers | columns, schema=pa.schema(list(kinds.items()))))


def _said(names: list[str], found: Layout) -> dict[str, str]:
    """{column of the record: column of the file}."""
    free = [name for name in names if name not in found.roles.values()]
    said = {column: name for column, wanted in SAID.items() if (name := find(free, wanted)) is not None}
    if not set(said) & {"text", "explanation"}:
        raise DataError(
            needed=f"a column of text (such as review, text or explanation) in {found.events.path.name}",
            came="columns " + ", ".join(names),
            remedy="rename one, or load it without 'reviews:'",
        )
    return said


def _checked(
    raw: pa.Table, roles: dict[str, str], where: Where, rejects: Rejects, clock: check.Clock
) -> tuple[pa.Table, dict[str, pa.Array | np.ndarray]]:
    """(the good rows, their cells by role); the others go to `rejects`, each with its first reason."""
    readers: dict[str, Callable] = {"user": check.ids, "item": check.ids, "time": clock.read, "rating": check.ratings}
    good, found, bad_rows = np.ones(raw.num_rows, bool), {}, []
    for role, column in roles.items():
        if role not in readers:
            continue
        cells = raw.column(column).combine_chunks()
        found[role], bad = readers[role](cells.cast(TEXT) if pa.types.is_string(cells.type) else cells)
        for reason, mask in bad.items():
            bad_rows += [Reject(line, column, reason, text) for line, text in map(where, np.flatnonzero(mask & good).tolist())]
            good &= ~mask
    rejects.take(bad_rows)
    keep = np.flatnonzero(good)
    return raw.take(pa.array(keep)), {
        role: cells[keep] if isinstance(cells, np.ndarray) else cells.take(pa.array(keep)) for role, cells in found.items()
    }


def _text(column: pa.ChunkedArray) -> pa.Array:
    """Text, with null for what is empty or blank."""
    cells = column.combine_chunks().cast(TEXT)
    return pc.if_else(pc.equal(pc.binary_length(pc.utf8_trim_whitespace(cells)), 0), pa.scalar(None, TEXT), cells)


Columns = dict[str, pa.Array]


def _shared(
    raw: pa.Table, texts: Columns, roles: dict[str, str], *, item: np.ndarray, user: np.ndarray
) -> tuple[Columns, Columns, Columns]:
    """(columns of the reviews, of the items, of the users): what is the same in all rows of an item tells of the item."""
    texts, of_item, of_user = dict(texts), {}, {}
    for name in raw.column_names:
        kind = raw.schema.field(name).type
        if name in roles.values() or not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            continue
        cells = _text(raw.column(name))
        if find([name], TITLES):
            if _constant(cells, item):
                of_item["title"] = cells
            elif "title" not in texts:
                texts["title"] = cells
        elif fold(name).startswith("item_") and _constant(cells, item):
            of_item[fold(name).removeprefix("item_")] = cells
        elif fold(name).startswith("user_") and _constant(cells, user):
            of_user[fold(name).removeprefix("user_")] = cells
    return texts, of_item, of_user


def _constant(cells: pa.Array, group: np.ndarray) -> bool:
    """Whether every group has one value only."""
    coded = pc.fill_null(cells.dictionary_encode().indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return len(np.unique(group.astype(np.int64) * (len(cells) + 1) + coded)) == len(np.unique(group))


def _table(
    column: str,
    numbering: Numbering,
    file: TableFile | None,
    key: str | None,
    told: Columns,
    number: np.ndarray,
    judge: Callable[[TableFile], Rejects],
) -> tuple[pa.Table, dict[str, Attributes], list[str]]:
    """(table in vocab order, attributes, notes): from the file beside, if any, else from what the reviews tell."""
    seen = numbering.text()
    if file is not None:
        return known(file, column=str(key), name=column, seen=seen, rejects=judge(file))
    first = pa.array(np.unique(number, return_index=True)[1])
    return pa.table({column: seen} | {name: cells.take(first) for name, cells in told.items()}), {}, []


def _counted(texts: Columns) -> list[str]:
    some = {name: len(cells) - cells.null_count for name, cells in texts.items()}
    return [f"reviews with {name}: {count:,} of {len(texts[name]):,}" for name, count in some.items()]
