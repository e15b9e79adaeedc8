"""`lmrs recommend RUN --history ID,ID,...`: the best items for somebody."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from lmrs.cli import options
from lmrs.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from lmrs.recommender import Recommender


@click.command()
@click.argument("run")
@click.option("--history", metavar="ID,ID,...", help="Item ids, oldest first, joined by commas.")
@click.option(
    "--item", "items", multiple=True, metavar="ID", help="One more item of the history (for ids with commas); may be repeated."
)
@click.option("--user", metavar="USER", help="Take the history of this user from the run's data.")
@click.option("--times", metavar="TIME,TIME,...", help="Times of the history's events, for systems that read times.")
@click.option("-k", "k", default=10, show_default=True, help="How many.")
@click.option("--exclude", multiple=True, metavar="ID", help="An item that must not come; may be repeated.")
@click.option("--include-seen", is_flag=True, help="Items of the history may come again.")
@options.as_json
def recommend(
    run: str,
    history: str | None,
    items: tuple[str, ...],
    user: str | None,
    times: str | None,
    k: int,
    exclude: tuple[str, ...],
    include_seen: bool,
    as_json: bool,
) -> None:
    """Recommend items with the recommender in the folder RUN.

    An item is given by its id; where no id fits, by its exact title.
    """
    from pathlib import Path

    from lmrs.recommender import MANIFEST, Recommender

    if (history is not None or items) and user is not None:
        raise UserError(needed="--history (with --item) or --user", came="both", remedy="leave one out")
    if history is None and not items and user is None:
        raise UserError(
            needed="a history", came="none", remedy='add --history ID,ID,... or --user USER (--history "" asks for a newcomer)'
        )
    folder = Path(run)
    notes: list[str] = []
    recommender = Recommender.load(folder if (folder / MANIFEST).is_file() else folder / "model")
    when: list[Any] | None = None
    if user is not None:
        asked, when = _events_of(folder, user)
    else:
        given = [text.strip() for text in (history or "").split(",") if text.strip()] + list(items)
        asked, notes = _by_title(recommender, given)
        when = None if times is None else [text.strip() for text in times.split(",")]
    excluded, more = _by_title(recommender, list(exclude))
    found = recommender.recommend(asked, k=k, exclude=excluded, exclude_seen=not include_seen, times=when)
    notes = [*recommender.notes, *notes, *more]
    if as_json:
        click.echo(json.dumps({"history": asked, **found.to_dict(), "notes": notes}, indent=2))
        return
    from rich.console import Console

    from lmrs.cli import show

    console, errors = show.console(), Console(stderr=True)
    for line in [*notes, *show.remarks(found)]:
        errors.print(line, highlight=False, markup=False)
    console.print(show.recommendations(found))


def _by_title(recommender: Recommender, given: list[str]) -> tuple[list[str], list[str]]:
    """(ids, notes): texts that are no id but the title of one item become its id, and a note says so."""
    known = recommender.vocab.item_numbers(given) >= 0
    if known.all():
        return given, []
    import numpy as np

    places: dict[str, list[int]] = {}
    for place, title in enumerate(recommender.titles(np.arange(recommender.vocab.n_items))):
        places.setdefault(title.casefold(), []).append(place)
    out, notes = [], []
    for text, there in zip(given, known, strict=True):
        named = [] if there else places.get(text.casefold(), [])
        if len(named) == 1:
            key = recommender.vocab.item_ids(np.array(named))[0]
            notes.append(f"{text!r} is read as the title of item {key}")
            out.append(key)
        else:
            if len(named) > 1:
                notes.append(f"{len(named)} items have the title {text!r}: give the id")
            out.append(text)
    return out, notes


def _events_of(folder: Path, user: str) -> tuple[list[str], list[Any] | None]:
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
