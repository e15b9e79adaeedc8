"""Posts with tags (Stack Overflow, Stack Exchange): the documents are the users, the tags are the items.

A question that has a tag is an event, so that recommending tags to a post is recommending items to a user without a history, and
a split by time asks for all the tags of later posts at once. Texts stand in the table of users: `title`, `text`, and `code`,
`author`, `site`, `score` where the file tells them. Answers are not read.

A body with HTML blocks of code, as in the dumps (`<pre><code>`), is taken apart: the blocks are `code`, the rest without its tags
is `text`. Other bodies stay as they are.

The file is `posts.parquet|csv|tsv` with the columns title, body, tags, created, post_id; kind (rows other than "question" are$
out) and site are optional. Tags are a list, or text in one of the forms `<beer><hops>`, `beer|hops`.
"""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lmrs.dataset import Dataset
from lmrs.errors import DataError
from lmrs.numbering import Numbering
from lmrs.sources import catalogue, check, delimited
from lmrs.sources.assemble import assemble, kept
from lmrs.sources.catalogue import TableFile, Where
from lmrs.sources.columns import find
from lmrs.sources.folder import EVENTS, TABLES
from lmrs.sources.rejects import Reject, Rejects

TEXT = pa.large_string()
NAMES = {
    "id": ("post_id", "id", "document_id", "doc_id"),
    "tags": ("tags", "tag", "labels"),
    "title": ("title",),
    "text": ("body", "text", "description", "content"),
    "code": ("code", "code_snippet", "snippet"),
    "time": ("created", "creation_date", "creationdate", "timestamp", "time", "date"),
    "kind": ("kind", "post_type", "posttypeid", "post_type_id"),
    "site": ("site",),
    "author": ("user_id", "owner_user_id", "owneruserid", "author"),
    "score": ("score",),
}
_BLOCK = re.compile(r"<pre[^>]*>\s*<code[^>]*>(.*?)</code>\s*</pre>", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"<[^<>]+>")
QUESTION = ("question", "1")  # "1" is PostTypeId of the dumps


def posts(path: Path) -> Path | None:
    """The file of posts that a path is or holds, or None. A folder that has interactions too is no folder of posts."""
    if path.is_file():
        return path if path.stem.lower() == "posts" and path.suffix.lower() in (".parquet", ".csv", ".tsv") else None
    if any(file.stem.lower() in EVENTS for file in path.iterdir() if file.suffix.lower() in TABLES):
        return None
    return next((file for ending in ("parquet", "csv", "tsv") if (file := path / f"posts.{ending}").exists()), None)


def load_documents(
    path: Path, *, cache: Path, lenient: bool = False, quarantine: Path | None = None, name: str | None = None
) -> Dataset:
    """The Dataset of a folder with posts, or of the file itself: one event for every (post, tag), in the order of the tags.

    lenient, quarantine: as for `sources.load`. Raises DataError for a row that cannot be read and for a missing column.
    """
    file = posts(path)
    if file is None:
        raise DataError(needed=f"posts.parquet, posts.csv or posts.tsv at {path}", came="none", remedy="rename the file")
    name = name or (path.stem if path.is_file() else path.resolve().name)
    return kept(
        lambda aside: _build(file, name=name, aside=aside),
        name=name,
        files=[file],
        recipe={"reader": "documents 2"},
        cache=cache,
        lenient=lenient,
        quarantine=quarantine,
    )


def _build(file: Path, *, name: str, aside: Path | None) -> Dataset:
    table_file = TableFile(file, None if file.suffix.lower() == ".parquet" else delimited.sniff(file))
    rejects = Rejects(file.name, unit="row" if table_file.dialect is None else "line", quarantine=aside)
    raw, where = catalogue.read(table_file, rejects)
    named = {part: column for part, wanted in NAMES.items() if (column := find(raw.column_names, wanted)) is not None}
    if lost := [part for part in ("id", "tags", "title") if part not in named]:
        raise DataError(
            needed=f"columns post_id, tags and title in {file.name}",
            came="columns " + ", ".join(raw.column_names),
            remedy=f"add {', '.join(NAMES[part][0] for part in lost)}",
        )
    rows = raw.num_rows
    keep = np.arange(rows)
    if "kind" in named:
        asked = pc.is_in(pc.utf8_lower(raw.column(named["kind"]).cast(TEXT)), value_set=pa.array(QUESTION, TEXT))
        keep = np.flatnonzero(asked.to_numpy(zero_copy_only=False))
    cells, keep = _checked(raw.take(pa.array(keep)), named, keep, where, rejects)
    if not len(keep):
        raise DataError(
            needed=f"questions with tags in {file}", came=f"{rows:,} rows, none of them usable", remedy="is it posts?"
        )
    documents, tags = Numbering(), Numbering()
    document = documents.add(cells["id"])
    lengths = pc.list_value_length(cells["tags"]).to_numpy(zero_copy_only=False)
    given = pc.list_flatten(cells["tags"])
    told = {part: cells[part] for part in ("title", "text", "code", "author", "site", "score") if part in cells}
    made, _ = assemble(
        name=name,
        user=np.repeat(document, lengths),
        item=tags.add(given),
        time=np.repeat(cells["time"], lengths) if "time" in cells else None,
        users=pa.table({"user_id": documents.text()} | told),
        items=pa.table({"item_id": tags.text()}),
        about={
            "columns": named,
            "quarantined": rejects.count,
            "quarantined_beside": {},
            "quarantine_reasons": dict(rejects.reasons),
            "order": "time, then file order" if "time" in cells else "file order (no time column)",
            "order_known": "time" in cells,
            "notes": [f"{len(keep):,} documents are the users, their tags the items; {rows - len(keep):,} other rows left out"],
        },
    )
    return made


def _checked(
    raw: pa.Table, named: dict[str, str], at: np.ndarray, where: Where, rejects: Rejects
) -> tuple[dict[str, pa.Array | np.ndarray], np.ndarray]:
    """(cells of the good rows by part, their rows in the file); the others go to `rejects`, each with its first reason."""
    cells: dict = {part: raw.column(column).combine_chunks() for part, column in named.items()}
    for part in ("title", "text", "code", "site", "author"):
        if part in cells:
            cells[part] = cells[part].cast(TEXT)
    if "text" in cells and "code" not in cells:
        cells |= _apart(cells["text"])
    ids, bad_ids = check.ids(cells["id"].cast(TEXT))
    cells["id"] = pc.binary_join_element_wise(cells["site"], ids, pa.scalar("/", TEXT)) if "site" in cells else ids
    coded = pc.fill_null(cells["id"], "").dictionary_encode().indices.to_numpy(zero_copy_only=False)
    again = np.ones(len(coded), bool)
    again[np.unique(coded, return_index=True)[1]] = False
    cells["tags"] = _tags(cells["tags"])
    none = pc.equal(pc.list_value_length(cells["tags"]), 0).to_numpy(zero_copy_only=False)
    untold = pc.is_null(cells["title"]).to_numpy(zero_copy_only=False)
    reasons = [("id", reason, mask) for reason, mask in bad_ids.items()]
    reasons += [("id", "id given twice", again), ("tags", "no tag", none), ("title", "missing", untold)]
    if "time" in cells:
        cells["time"], bad_times = check.Clock().read(cells["time"])
        reasons += [("time", reason, mask) for reason, mask in bad_times.items()]
    good, bad_rows = np.ones(len(at), bool), []
    for part, reason, mask in reasons:
        places = [where(int(row)) for row in at[np.flatnonzero(mask & good)]]
        bad_rows += [Reject(line, named[part], reason, text) for line, text in places]
        good &= ~mask
    rejects.take(bad_rows)
    keep = np.flatnonzero(good)
    rows = pa.array(keep)
    cells.pop("kind", None)
    return {p: array[keep] if isinstance(array, np.ndarray) else array.take(rows) for p, array in cells.items()}, at[keep]


def _tags(column: pa.Array) -> pa.Array:
    """large_list of distinct tags; null and blank ones are dropped."""
    if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
        text = pc.utf8_trim(pc.fill_null(column.cast(TEXT), ""), "<> ")
        column = pc.split_pattern_regex(text, r"\s*(?:>\s*<|\|)\s*")
    rows = [list(dict.fromkeys(tag.strip() for tag in tags or () if tag and tag.strip())) for tags in column.to_pylist()]
    return pa.array(rows, pa.large_list(TEXT))


def _apart(bodies: pa.Array) -> dict[str, pa.Array]:
    """`text`, and `code` if any of the bodies has a block of code."""
    texts, codes = [], []
    for body in bodies.to_pylist():
        blocks = _BLOCK.findall(body) if body and "<pre" in body.lower() else []
        codes.append("\n".join(html.unescape(block).strip() for block in blocks) if blocks else None)
        texts.append(html.unescape(_TAG.sub(" ", _BLOCK.sub(" ", body))).strip() if blocks else body)
    if not any(codes):
        return {"text": bodies}
    return {"text": pa.array(texts, TEXT), "code": pa.array(codes, TEXT)}
