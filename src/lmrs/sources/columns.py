"""Which column of a table plays which part: told by the user, or guessed from well-known names and reported."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

from lmrs.errors import DataError, did_you_mean

ROLES: dict[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userid", "uid", "reviewer_id", "reviewerid", "customer_id", "customerid", "session_id",
             "sessionid", "visitor_id", "visitorid", "member_id", "account_id",
             "customer", "client", "client_id", "session", "visitor", "u"),
    "item": ("item", "item_id", "itemid", "iid", "asin", "parent_asin", "movie_id", "movieid", "product_id", "productid",
             "business_id", "book_id", "isbn", "track_id", "song_id", "artist_id", "article_id", "news_id", "sku", "product",
             "movie", "book", "track", "article", "i"),
    "time": ("timestamp", "time", "unixreviewtime", "unix_time", "datetime", "event_time", "created_at", "date", "ts", "when",
             "order_date", "purchase_date", "t"),
    "rating": ("rating", "stars", "overall", "score", "rate", "plays", "play_count", "weight"),
    "type": ("type", "event", "event_type", "behavior", "behavior_type", "action"),
}  # fmt: skip
ALIASES = {"timestamp": "time", "user_id": "user", "item_id": "item"}
TITLES = ("title", "name", "item_name", "item_title", "movie_title", "product_name", "product_title", "track_name")
YEARS = ("year", "release_year")
KEYS = ("item_idx", "item_index")
ATTRIBUTES = ("genres", "genre", "categories", "category", "attributes", "tags", "tag", "brand", "brands", "artists", "authors",
              "author", "keywords", "class", "classes")  # fmt: skip


def fold(name: str) -> str:
    """A column name without case, spaces, hyphens and RecBole's type suffix."""
    return re.sub(r"[\s\-]+", "_", name.split(":")[0].strip().lower())


def find(names: Iterable[str], wanted: Iterable[str]) -> str | None:
    """The first of the wanted names that a table has, as the table spells it."""
    folded: dict[str, str] = {}
    for name in names:
        folded.setdefault(fold(name), name)
    return next((folded[want] for want in wanted if want in folded), None)


def check_keys(columns: Mapping[str, str] | None) -> dict[str, str]:
    """The user's mapping {role: column} with aliases resolved. Raises DataError for a role that does not exist."""
    given = {}
    for key, name in (columns or {}).items():
        role = ALIASES.get(key, key)
        if role not in ROLES:
            raise DataError(needed="columns named for " + ", ".join(ROLES), came=f"'{key}'", remedy=did_you_mean(key, ROLES))
        given[role] = name
    return given


def roles(names: list[str], *, given: Mapping[str, str], where: str) -> dict[str, str]:
    """{role: column} of a table.

    names: its columns. given: what the user said ({} if nothing). where: the file, for messages.
    Raises DataError if a named column is absent or a required role has no column, with the nearest names.
    """
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(needed=f"distinct column names in {where}", came=f"'{min(twice)}' twice", remedy="rename one")
    found: dict[str, str] = {}
    for role, name in given.items():
        if name not in names:
            raise DataError(needed=f"column '{name}' for {role} in {where}", came=_list(names), remedy=did_you_mean(name, names))
        found[role] = name
    free = [name for name in names if name not in found.values()]
    for role, synonyms in ROLES.items():
        if role not in found and (guess := find(free, synonyms)) is not None:
            found[role] = guess
            free.remove(guess)
    for role in ("user", "item"):
        if role not in found:
            hint = f"--column {role}={_like(ROLES[role], free)}"
            raise DataError(needed=f"a column for {role} in {where}", came=_list(names), remedy=f"say which with {hint}")
    return found


def _like(words: tuple[str, ...], names: list[str]) -> str:
    """The name most like one of the words, or NAME if none is."""
    scores = {name: max(difflib.SequenceMatcher(None, word, fold(name)).ratio() for word in words) for name in names}
    best = max(scores, key=scores.__getitem__, default="NAME")
    return best if scores.get(best, 0) > 0.6 else "NAME"


def _list(names: list[str]) -> str:
    return "columns " + ", ".join(name[:40] for name in names[:12]) + (", ..." if len(names) > 12 else "")
