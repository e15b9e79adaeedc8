"""Options that mean the same on every command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from lmrs.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from lmrs.run import Data

ROLES = ("user", "item", "time", "rating", "type")

device = click.option("--device", default="auto", show_default=True, help="cpu, cuda or auto.")
threads = click.option("--threads", type=int, help="Threads to compute with [default: OMP_NUM_THREADS, else the physical cores].")
fit_threads = click.option(
    "--threads", type=int, help="Threads to compute with [default: OMP_NUM_THREADS, else as many as a probe finds to pay]."
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
quiet = click.option("--quiet", is_flag=True, help="No progress.")
measure = click.option(
    "--measure",
    "measures",
    multiple=True,
    metavar="NAME",
    help="What to measure, such as NDCG@10 or NDCG@10/99neg; may be repeated.",
)


def history(function: Callable[..., Any]) -> Callable[..., Any]:
    """--history, --item and --user: whose history."""
    for option in (
        click.option("--user", metavar="USER", help="Take the history of this user from the run's data."),
        click.option(
            "--item",
            "items",
            multiple=True,
            metavar="ID",
            help="One more item of the history (for ids with commas); may be repeated.",
        ),
        click.option(
            "--history",
            metavar="ID,ID,...",
            help="Item ids or titles, oldest first, joined by commas, or by semicolons if there is one.",
        ),
    ):
        function = option(function)
    return function


def data_options(required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--data and how to read and divide it."""
    each = (
        click.option(
            "--data", required=required, metavar="NAME_OR_PATH", help="A source (see lmrs data list) or your file or folder."
        ),
        click.option("--column", "columns", multiple=True, metavar="ROLE=NAME", help="Name a column, such as user=customer_id."),
        click.option("--lenient", is_flag=True, help="Set malformed rows aside instead of stopping at the first."),
        click.option("--drop-duplicates", is_flag=True, help="Keep the first of equal events."),
        click.option(
            "--time-unit", type=click.Choice(["s", "ms", "us", "ns"]), help="Unit of numeric times [default: told by size]."
        ),
        click.option(
            "--core", type=click.IntRange(min=0), default=0, show_default=True, help="Least events of each user and item."
        ),
        click.option("--split", default="leave-one-out", show_default=True, help="leave-one-out, time, user or review."),
        click.option(
            "--valid-from", default="0.8", show_default=True, help="Where validation begins: a share, or a date (by time)."
        ),
        click.option(
            "--test-from", default="0.9", show_default=True, help="Where the test begins: a share, or a date (by time)."
        ),
        click.option("--next-only", is_flag=True, help="By time: only a user's first event of the part is to be found."),
        click.option(
            "--queries", type=click.IntRange(min=1), help="Ask at most so many of each part, evenly spaced [default: all]."
        ),
    )

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(each):
            function = option(function)
        return function

    return wrap


def the_data(
    *,
    data: str,
    columns: tuple[str, ...],
    lenient: bool,
    drop_duplicates: bool,
    time_unit: str | None,
    core: int,
    split: str,
    valid_from: str,
    test_from: str,
    next_only: bool,
    queries: int | None,
) -> Data:
    """The options as one value; a path is made absolute, so that the run can be evaluated from anywhere."""
    from pathlib import Path

    from lmrs.run import Data

    named = {}
    for pair in columns:
        role, equals, name = pair.partition("=")
        if not equals or role not in ROLES:
            raise UserError(needed="columns such as user=customer_id", came=repr(pair), remedy=did_you_mean(role, ROLES))
        named[role] = name
    path = Path(data)
    local = path.exists() and (path.is_file() or "/" in data or not _is_source(data))
    return Data(
        source=str(path.resolve()) if local else data,
        columns=named,
        lenient=lenient,
        drop_duplicates=drop_duplicates,
        time_unit=time_unit,
        core=core,
        split=split,
        valid_from=valid_from,
        test_from=test_from,
        next_only=next_only,
        queries=queries or 0,
    )


def _is_source(name: str) -> bool:
    from lmrs.sources import NAMED

    return any(name.partition(":")[0] in (each.name, *each.aliases) for each in NAMED)
