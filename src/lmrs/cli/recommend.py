"""`lmrs recommend RUN --history ID,ID,...`: the best items for somebody."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from lmrs.cli import options
from lmrs.cli.history import by_title, check_asked, document_of, load, passed_over, profile_of, quick, typed, unread, whose

if TYPE_CHECKING:
    from lmrs.recommendations import Recommendations


@click.command()
@click.argument("run")
@options.history
@click.option("--times", metavar="TIME,TIME,...", help="Times of the history's events, for systems that read times.")
@click.option("--profile", metavar="NAME=VALUE;...", help="What is known of the user, for systems that read profiles.")
@click.option("--text", "texts", multiple=True, metavar="PART=TEXT", help="A part of a document, for systems of documents.")
@click.option(
    "--said", multiple=True, metavar="TEXT", help='A turn of a dialogue: "User: ..." or "System: ..."; may be repeated.'
)
@click.option("--said-file", metavar="FILE", help="A dialogue, one turn a line.")
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
    profile: str | None,
    texts: tuple[str, ...],
    said: tuple[str, ...],
    said_file: str | None,
    k: int,
    exclude: tuple[str, ...],
    include_seen: bool,
    as_json: bool,
) -> None:
    """Recommend items with the recommender in the folder RUN.

    An item is given by its id; where no id fits, by its title, if only one item has it. Systems that read dialogues (unicrs,
    kbrd) are told one with --said, in which titles count that are in quotes, have their year, or are in capital letters.
    """
    from pathlib import Path

    if said or said_file is not None:
        given = {"--history": history, "--item": items, "--user": user, "--times": times, "--profile": profile, "--text": texts}
        answer(run, said, said_file, given, k=k, exclude=exclude, include_seen=include_seen, as_json=as_json)
        return
    alone = (profile is not None or texts) and user is None  # a profile is a question, even without a history
    check_asked(history or "" if alone else history, items, user)
    folder = Path(run)
    asked = typed(history, items)
    soon = None if user is not None or times is not None or profile is not None or texts else quick(folder, [*asked, *exclude])
    if soon is not None:
        found = soon.recommend(asked, k=k, exclude=exclude, exclude_seen=not include_seen)
        tell(asked, found, passed_over(soon.vocab, asked, max_len=soon.max_len, blind=soon.name), as_json=as_json)
        return
    from lmrs.models import Model

    recommender = load(folder)
    asked, when, notes = whose(recommender, folder, history, items, user)
    if times is not None and user is None:
        when = [text.strip() for text in times.split(",")]
    known = document_of(texts) if texts else profile_of(recommender, folder, profile, user)
    excluded, more = by_title(recommender, list(exclude))
    if isinstance(recommender.system.model, Model) and recommender.system.model.by_item and not as_json:
        click.echo(f"scoring {recommender.vocab.n_items:,} items one by one: a large language model takes a while", err=True)
    found = recommender.recommend(asked, k=k, exclude=excluded, exclude_seen=not include_seen, times=when, profile=known)
    tell(asked, found, [*recommender.notes, *notes, *more, *unread(recommender, asked)], as_json=as_json)


def tell(asked: list[str], found: Recommendations, notes: list[str], *, as_json: bool) -> None:
    """Prints the answer for the items `asked`."""
    if as_json:
        click.echo(json.dumps({"history": asked, **found.to_dict(), "notes": notes}, indent=2))
        return
    from rich.console import Console

    from lmrs.cli import show

    console, errors = show.console(), Console(stderr=True)
    for line in [*notes, *show.remarks(found)]:
        errors.print(line, highlight=False, markup=False)
    console.print(show.recommendations(found))


def answer(
    run: str,
    said: tuple[str, ...],
    said_file: str | None,
    given: dict[str, Any],
    *,
    k: int,
    exclude: tuple[str, ...],
    include_seen: bool,
    as_json: bool,
) -> None:
    """`recommend` for a dialogue. given: by option, what is asked in other ways."""
    from pathlib import Path

    from lmrs.errors import UserError

    others = [name for name, value in given.items() if value]
    if others or (said and said_file is not None):
        raise UserError(
            needed="one way to ask", came=f"--said and {others[0] if others else '--said-file'}", remedy="leave one out"
        )
    recommender = load(Path(run))
    turns = list(said)
    if said_file is not None:
        try:
            turns = [line for line in Path(said_file).read_text(encoding="utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(needed=f"a text at {said_file}", came=str(error).split(":")[0], remedy="check the file") from error
    excluded, more = by_title(recommender, list(exclude))
    found = recommender.reply(turns, k=k, exclude=excluded, exclude_seen=not include_seen)
    notes = [*recommender.notes, *more]
    if as_json:
        click.echo(json.dumps({"said": turns, **found.to_dict(), "notes": notes}, indent=2))
        return
    from rich.console import Console

    from lmrs.cli import show

    console, errors = show.console(), Console(stderr=True)
    for line in [*notes, *show.understood(found), *show.remarks(found.recommendations)]:
        errors.print(line, highlight=False, markup=False)
    if found.response is not None:
        console.print(found.response or "(it says nothing)", highlight=False, markup=False)
    console.print(show.recommendations(found.recommendations))
