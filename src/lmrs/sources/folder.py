"""Telling what the files of a folder are: the user's own tables, RecBole atomic files, original MovieLens files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from lmrs.errors import DataError
from lmrs.sources import catalogue, columns, delimited, parquet
from lmrs.sources.catalogue import TableFile
from lmrs.sources.columns import KEYS, ROLES, find, fold
from lmrs.sources.delimited import Dialect
from lmrs.sources.prepare import Filter, Layout

TABLES = (".csv", ".tsv", ".txt", ".parquet")
EVENTS = ("interactions", "interaction", "events", "ratings", "reviews", "transactions", "plays", "clicks", "sequences")
ITEMS = ("items", "item", "movies", "artists", "products", "books", "catalogue", "catalog")
USERS = ("users", "user", "customers")
EDGES = ("edges", "kg", "graph", "triples", "kg_triples")
LINKS = ("link", "links", "kg_link", "item_entities")
HOLDS = {  # a column that gives away what a folder holds that is no interactions
    "messages": "dialogues", "candidates": "news impressions", "clicked": "news impressions", "outfit_id": "outfits",
    "hadm_id": "hospital admissions", "post_id": "posts", "head": "a graph", "item_ids": "item sets",
}  # fmt: skip
_GENRES = ("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
           "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western")  # fmt: skip
_FILMS = ("item_id", "title", "released", "video", "url", *_GENRES)
_RATINGS = ("user", "item", "rating", "timestamp")
_MOVIELENS = {  # original GroupLens files: (events, items, users)
    "ml-100k": (
        TableFile(Path("u.data"), Dialect("\t", False, _RATINGS)),
        TableFile(Path("u.item"), Dialect("|", False, _FILMS, "latin-1"), flags=_GENRES),
        TableFile(Path("u.user"), Dialect("|", False, ("user_id", "age", "gender", "occupation", "zip_code"))),
    ),
    "ml-1m": (
        TableFile(Path("ratings.dat"), Dialect("::", False, _RATINGS)),
        TableFile(Path("movies.dat"), Dialect("::", False, ("item_id", "title", "genres"), "latin-1")),
        TableFile(Path("users.dat"), Dialect("::", False, ("user_id", "gender", "age", "occupation", "zip_code"))),
    ),
}


def layout(path: Path, *, given: Mapping[str, str], name: str | None = None) -> Layout:
    """What to read where, for a folder or a single file of interactions.

    given: {role: column} from the user. Raises DataError, saying what the path holds, if there are no interactions.
    """
    name = name or (path.stem if path.is_file() else path.resolve().name)
    if path.is_file():
        return _table(path, given=given, name=name, beside={})
    for files in _MOVIELENS.values():
        if (path / files[0].path).exists():
            return _movielens(path, files, name)
    if atomic := sorted(path.glob("*.inter")):
        return _atomic(_only(atomic, path), given=given, name=name)
    tables = {file.stem.lower(): file for file in sorted(path.iterdir()) if file.suffix.lower() in TABLES}
    for known in EVENTS:
        if known in tables:
            return _table(tables[known], given=given, name=name, beside=tables)
    readable = [file for file in tables.values() if _is_events(file, given)]
    if not readable:
        raise _nothing(path, tables)
    return _table(_only(readable, path), given=given, name=name, beside=tables)


def _only(files: list[Path], folder: Path) -> Path:
    if len(files) > 1:
        raise DataError(
            needed=f"one table of interactions in {folder}",
            came=", ".join(file.name for file in files),
            remedy=f"give one by its path, such as {files[0]}",
        )
    return files[0]


def _file(path: Path) -> TableFile:
    return TableFile(path, None if path.suffix.lower() == ".parquet" else delimited.sniff(path))


def _is_events(path: Path, given: Mapping[str, str]) -> bool:
    names = catalogue.names(_file(path))
    return all((given.get(role) in names) or find(names, ROLES[role]) for role in ("user", "item"))


def _nothing(folder: Path, tables: dict[str, Path]) -> DataError:
    held, kinds = [], []
    for file in tables.values():
        names = catalogue.names(_file(file))
        held.append(f"{file.name} ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})")
        kinds += [kind for column, kind in HOLDS.items() if column in map(fold, names)]
    what = " and ".join(dict.fromkeys(kinds))
    came = (f"{what}: " if what else "") + "; ".join(held) if held else "no table at all"
    return DataError(
        needed=f"a table of interactions (columns for user and item) in {folder}",
        came=came,
        remedy="this version reads interactions only; name one interactions.csv, or say the columns with --column",
    )


def _table(path: Path, *, given: Mapping[str, str], name: str, beside: dict[str, Path]) -> Layout:
    """The user's own tables, and the Parquet sets of the same shape."""
    if path.suffix.lower() == ".inter":
        return _atomic(path, given=given, name=name)
    file = _file(path)
    names = catalogue.names(file)
    if file.dialect is None and (lists := _lists(path)) and find(names, ROLES["item"]) is None and "item" not in given:
        found = {"user": given.get("user") or find(names, ROLES["user"]) or names[0], "item": lists}
    else:
        lists = ""
        found = columns.roles(names, given=given, where=path.name)

    def side(wanted: tuple[str, ...], kinds: tuple[str, ...]) -> tuple[TableFile | None, str | None]:
        for stem in wanted:
            if stem in beside and beside[stem] != path:
                table = _file(beside[stem])
                return table, (find(catalogue.names(table), kinds) if kinds else "")
        return None, None

    items, item_key = side(ITEMS, (*(KEYS if lists else ()), *ROLES["item"]))
    users, user_key = side(USERS, ROLES["user"])
    for table, key, what in ((items, item_key, "item"), (users, user_key, "user")):
        if table is not None and key is None:
            raise DataError(
                needed=f"a column with the {what} id in {table.path.name}",
                came="columns " + ", ".join(catalogue.names(table)),
                remedy=f"call it {what}_id",
            )
    edges, _ = side(EDGES, ())
    link, _ = side(LINKS, ())
    used = {file.path for file in (items, users, edges, link) if file} | {path}
    made = Layout(
        name=name,
        events=file,
        roles=found,
        guessed=tuple(role for role in found if role not in given),
        lists=bool(lists),
        items=items,
        users=users,
        edges=edges,
        link=link if edges else None,
        item_key=item_key,
        user_key=user_key,
        not_read=tuple(other.name for other in beside.values() if other not in used),
    )
    return _retail(made) if {"invoice", "quantity", "title"} <= set(names) and file.dialect is None else made


def _lists(path: Path) -> str:
    """The column that holds a list of items for every row, or ""."""
    for part in parquet.schema(path):
        if fold(part.name) in ("items", "sequence", "history", "item_ids") and pa.types.is_list(part.type):
            return part.name if not pa.types.is_nested(part.type.value_type) else ""
    return ""


def _retail(made: Layout) -> Layout:
    """Invoices (UCI Online Retail): only sales of goods to a known customer are interactions."""
    user, item = made.roles["user"], made.roles["item"]
    return replace(
        made,
        item_title="title",
        filters=(
            Filter("no customer", (user,), lambda cells: pc.is_valid(cells[user]).to_numpy(zero_copy_only=False)),
            Filter(
                "quantity is not positive (returns)",
                ("quantity",),
                lambda cells: pc.greater(cells["quantity"], 0).to_numpy(zero_copy_only=False),
            ),
            Filter(
                "service code (no stock number)",
                (item,),
                lambda cells: pc.match_substring_regex(cells[item], r"^\d{5}").to_numpy(zero_copy_only=False),
            ),
        ),
    )


def _atomic(path: Path, *, given: Mapping[str, str], name: str) -> Layout:
    """RecBole atomic files: tab separated without quoting, `name:type` headers, lists separated by blanks."""

    def atom(suffix: str) -> TableFile | None:
        file = path.with_suffix(suffix)
        if not file.exists():
            return None
        dialect = Dialect("\t", quotes=False)
        names = delimited.header(file, dialect)
        title = find(names, columns.TITLES)
        return TableFile(file, dialect, words=tuple(n for n in names if n.endswith(":token_seq") and n != title))

    events = atom(path.suffix)
    assert events is not None
    names = catalogue.names(events)
    short = {fold(n): n for n in names}
    spelled = {role: short.get(fold(column), column) for role, column in given.items()}
    found = columns.roles(names, given=spelled, where=path.name)
    items, users = atom(".item"), atom(".user")
    edges, link = atom(".kg"), atom(".link")
    return Layout(
        name=name,
        events=replace(events, words=()),
        roles=found,
        guessed=tuple(role for role in found if role not in given),
        items=items,
        users=users,
        edges=edges,
        link=link if edges else None,
        item_key=_key(items, ROLES["item"]),
        user_key=_key(users, ROLES["user"]),
    )


def _key(file: TableFile | None, wanted: tuple[str, ...]) -> str | None:
    """The id column of an atomic file, as it is called once the type suffix is gone."""
    if file is None:
        return None
    names = catalogue.names(file)
    return (find(names, wanted) or names[0]).split(":")[0]


def _movielens(folder: Path, files: tuple[TableFile, TableFile, TableFile], name: str) -> Layout:
    events, items, users = (replace(file, path=folder / file.path) for file in files)
    return Layout(
        name=name,
        events=events,
        roles={"user": "user", "item": "item", "time": "timestamp", "rating": "rating"},
        items=items if items.path.exists() else None,
        users=users if users.path.exists() else None,
        item_key="item_id",
        user_key="user_id",
        notes=("original GroupLens files",),
    )
