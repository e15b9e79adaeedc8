"""Whose history: ids, titles, or a user of the run's data, as the command line takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lmrs.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from lmrs.quick import Catalogue, QuickRecommender
    from lmrs.recommender import Recommender
    from lmrs.vocab import Vocab


def check_asked(history: str | None, items: tuple[str, ...], user: str | None) -> None:
    """Raises UserError unless a history or a user is given, and not both."""
    if (history is not None or items) and user is not None:
        raise UserError(needed="--history (with --item) or --user", came="both", remedy="leave one out")
    if history is None and not items and user is None:
        raise UserError(
            needed="a history", came="none", remedy='add --history ID,ID,... or --user USER (--history "" asks for a newcomer)'
        )


def load(folder: Path) -> Recommender:
    """The recommender of a run folder, or in the folder itself."""
    from lmrs.folder import MANIFEST
    from lmrs.recommender import Recommender

    return Recommender.load(folder if (folder / MANIFEST).is_file() else folder / "model")


def quick(folder: Path, ids: list[str]) -> QuickRecommender | None:
    """The recommender where these items can be asked without torch; None where only `load` can tell, also what is wrong."""
    from lmrs.folder import MANIFEST
    from lmrs.quick import QuickRecommender

    try:
        found = QuickRecommender.load(folder if (folder / MANIFEST).is_file() else folder / "model")
    except UserError:
        return None
    return found if (found.vocab.item_numbers(ids) >= 0).all() else None  # others may be titles


def typed(history: str | None, items: tuple[str, ...]) -> list[str]:
    """The ids or titles of --history and --item, oldest first."""
    between = ";" if history is not None and ";" in history else ","  # titles have commas in them
    return [text.strip() for text in (history or "").split(between) if text.strip()] + list(items)


def whose(
    recommender: Recommender, folder: Path, history: str | None, items: tuple[str, ...], user: str | None
) -> tuple[list[str], list[Any] | None, list[str]]:
    """(item ids, their times or None, notes on how they were read)."""
    if user is not None:
        return *events_of(folder, user), []
    asked, notes = by_title(recommender, typed(history, items))
    return asked, None, notes


def by_title(recommender: Recommender, given: list[str]) -> tuple[list[str], list[str]]:
    """(ids, notes): texts that are no id but the title of one item become its id, and a note says so.

    Case, signs, the place of an article and a year left out do not matter; nothing is guessed by likeness, but near titles are
    offered.
    """
    known = recommender.vocab.item_numbers(given) >= 0
    if known.all():
        return given, []
    import numpy as np

    from lmrs.decoding import Titles

    titles = Titles(recommender.titles(np.arange(recommender.vocab.n_items)), threshold=None)
    out, notes = [], []
    for text, there in zip(given, known, strict=True):
        match = None if there else titles.find(text)
        if match is not None and match.item is not None:
            key, title = recommender.vocab.item_ids(np.array([match.item]))[0], titles.names[match.item]
            notes.append(f"{text!r} is read as the title of item {key}{'' if title == text else f', {title!r}'}")
            out.append(key)
            continue
        if match is not None and match.items:
            some = ", ".join(recommender.vocab.item_ids(np.array(match.items[:5])))
            notes.append(f"{len(match.items)} items have the title {text!r}: give the id ({some})")
        elif match is not None and (near := titles.near(text)):
            some = " or ".join(f"{titles.names[item]!r}" for item in near)
            notes.append(f"no item is called {text!r}: did you mean {some}?")
        out.append(text)
    return out, notes


def unread(recommender: Recommender, asked: list[str]) -> list[str]:
    """What the recommender did not understand of these items: old ones of a long history, texts that are not there, items that
    were not in the training data where it knows items by training alone."""
    from lmrs.cli import show
    from lmrs.views import ItemSequence

    view, model = recommender.system.task.serving, recommender.system.model
    longest = view.max_len if isinstance(view, ItemSequence) else None
    found = passed_over(recommender.vocab, asked, max_len=longest, blind="" if model.knows_new else recommender.name)
    return found + ([] if recommender.scorer.unread is None else show.unread(recommender.scorer.unread.facts()))


def passed_over(vocab: Vocab | Catalogue, asked: list[str], *, max_len: int | None, blind: str) -> list[str]:
    """The part of `unread` that counts tell. blind: the name of a system that knows items by training alone, else ""."""
    found, numbers = [], vocab.item_numbers(asked)
    known = numbers[numbers >= 0]
    if blind and vocab.counts is not None and (new := known[vocab.counts[known] == 0]).size:
        some = ", ".join(vocab.item_ids(new[:5]))
        found.append(f"without training events, so {blind} knows nothing of it: {some}")
    if max_len is not None and (older := len(known) - max_len) > 0:
        found.append(f"{older:,} older items are not read (max_len {max_len})")
    return found


def profile_of(recommender: Recommender, folder: Path, text: str | None, user: str | None) -> dict[str, str] | None:
    """What is known of the user: as typed, "age=25;gender=F", or of a user of the run's data; None for systems that read none.

    Raises UserError for a text without "=".
    """
    from lmrs.models.profiles import Profiles

    known = recommender.vocab.prepared
    if text is not None:
        pairs = [part.partition("=") for part in text.split(";") if part.strip()]
        if any(not equals for _, equals, _ in pairs):
            raise UserError(needed="a profile such as age=25;gender=F", came=repr(text), remedy="write NAME=VALUE")
        return {name.strip(): value.strip() for name, _, value in pairs}
    if user is None or not isinstance(known, Profiles):
        return None
    from lmrs.run import read_record
    from lmrs.views.profiled import profiles

    dataset = read_record(folder).data.load()
    said = profiles(dataset.users, dataset.vocab.user_numbers([user]))
    met = {name: set(values) for name, values in known.values}
    found = {name: said[name][0].as_py() for name in met if name in said}
    return {name: value for name, value in found.items() if value in met[name]}


def document_of(texts: tuple[str, ...]) -> dict[str, str]:
    """The parts of a document as typed, one "title=..." each. Raises UserError for a text without "="."""
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not equals:
            raise UserError(needed="a part of a document such as title=TEXT", came=repr(name), remedy="write PART=TEXT")
    return {name.strip(): text for name, _, text in pairs}


def events_of(folder: Path, user: str) -> tuple[list[str], list[Any] | None]:
    """(item ids, times or None) of a user of the run's data, oldest first."""
    from lmrs.errors import did_you_mean
    from lmrs.run import read_record

    dataset = read_record(folder).data.load()
    number = int(dataset.vocab.user_numbers([user])[0])
    if number < 0:
        ids = dataset.vocab.users.to_pylist()
        raise UserError(
            needed=f"a user of {dataset.name}",
            came=repr(user),
            remedy=did_you_mean(user, ids) if len(ids) <= 2000 else f"such as {ids[0]!r}",
        )
    ids = dataset.vocab.item_ids(dataset.history(number))
    if dataset.time is None:
        return ids, None
    return ids, list(dataset.time[dataset.offsets[number] : dataset.offsets[number + 1]].astype("datetime64[us]"))
