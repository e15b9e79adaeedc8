"""`lmrs data`: what there is, fetching it, and what a file or folder was understood to be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from lmrs.cli import options
from lmrs.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from lmrs.dataset import Dataset

BAR = 40  # characters of the longest bar


@click.group()
def data() -> None:
    """Look at data: list the sources, fetch one, inspect a file or folder."""


@data.command("list")
@options.as_json
def list_(as_json: bool) -> None:
    """The named sources."""
    from lmrs.sources import NAMED

    if as_json:
        click.echo(json.dumps([{"name": each.name, "aliases": list(each.aliases), "about": each.about} for each in NAMED]))
        return
    for each in NAMED:
        also = f" (also {', '.join(each.aliases)})" if each.aliases else ""
        click.echo(f"{each.name}{also}\n    {each.about}")
    click.echo("PATH\n    your own folder or file: interactions.csv|tsv|parquet, RecBole atomic files, original MovieLens files,")
    click.echo("    news impressions (behaviors.tsv, news.tsv), posts with tags; reviews:PATH also reads what users wrote")


@data.command()
@click.argument("name")
@click.option("--to", "folder", type=click.Path(path_type=str), help="Also write the prepared store to this folder.")
@options.as_json
def get(name: str, folder: str | None, as_json: bool) -> None:
    """Fetch a named source and prepare it."""
    from lmrs import sources, store

    names = [spelled for each in sources.NAMED for spelled in (each.name, *each.aliases)]
    if name.partition(":")[0] not in names:
        raise UserError(needed="the name of a source", came=repr(name), remedy=did_you_mean(name, names))
    dataset = sources.load(name)
    where = str(store.write(dataset, folder)) if folder is not None else dataset.about.get("store")
    if as_json:
        sizes = {"users": dataset.n_users, "items": dataset.n_items, "events": dataset.n_events}
        click.echo(json.dumps({"name": dataset.name, "store": where, **sizes}))
    else:
        click.echo(f"{dataset.name}: {_sizes(dataset)}" + (f", in {where}" if where else ""))


@data.command("inspect")
@click.argument("name_or_path")
@click.option("--column", "columns", multiple=True, metavar="ROLE=NAME", help="Name a column, such as user=customer_id.")
@click.option("--lenient", is_flag=True, help="Set malformed rows aside instead of stopping at the first.")
@click.option("--quarantine", type=click.Path(dir_okay=False), help="With --lenient: write the rows that were set aside here.")
@click.option("--drop-duplicates", is_flag=True, help="Keep the first of equal events.")
@click.option("--time-unit", type=click.Choice(["s", "ms", "us", "ns"]), help="Unit of numeric times [default: told by size].")
@options.as_json
def inspect_(
    name_or_path: str,
    columns: tuple[str, ...],
    lenient: bool,
    quarantine: str | None,
    drop_duplicates: bool,
    time_unit: str | None,
    as_json: bool,
) -> None:
    """What a file, folder or source was understood to be, and what looks wrong."""
    from lmrs import sources
    from lmrs.inspection import inspect

    named = {}
    for pair in columns:
        role, equals, column = pair.partition("=")
        if not equals or not column:
            raise UserError(needed="a column such as user=customer_id", came=repr(pair), remedy="write ROLE=NAME")
        named[role] = column
    dataset = sources.load(
        name_or_path,
        columns=named,
        lenient=lenient,
        drop_duplicates=drop_duplicates,
        time_unit=time_unit,
        quarantine=quarantine,
    )
    found = inspect(dataset)
    if as_json:
        click.echo(json.dumps(found))
        return
    from lmrs.cli.show import console

    show(found, console())


def _sizes(dataset: Dataset) -> str:
    return f"{dataset.n_users:,} users, {dataset.n_items:,} items, {dataset.n_events:,} events"


def show(found: dict, console: Console) -> None:
    """Prints what `inspection.inspect` found: a table of facts, two histograms, the warnings."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(found["name"]), show_header=False, title_justify="left")
    for name, value in _facts(found):
        table.add_row(name, escape(value))
    console.print(table)
    for title, bins in found["histograms"].items():
        if bins:
            console.print(f"\n{title}")
            most = max(count for _, count in bins)
            wide = max(len(name) for name, _ in bins)
            for name, count in bins:
                console.print(f"  {name:>{wide}} {'█' * round(BAR * count / most):{BAR}} {count:>9,}", highlight=False)
    if found["warnings"]:
        console.print("\n[bold]What looks wrong[/bold]")
        for sentence in found["warnings"]:
            console.print(f"  - {escape(sentence)}", highlight=False)
    else:
        console.print("\nNothing looks wrong.")


def _facts(found: dict) -> list[tuple[str, str]]:
    about, lengths, time, rating, edges = found["about"], found["lengths"], found["time"], found["rating"], found["edges"]
    facts = [
        (
            "events",
            f"{found['events']:,} by {found['users']:,} users on {found['items']:,} items; density {found['density']:.3%}",
        ),
        ("events per user", _spread(lengths)),
        ("events per item", _spread(found["item_counts"])),
        ("order", f"{about.get('order', 'as stored')}; ties: {found['tie_rule']}"),
    ]
    if time is not None:
        facts.append(
            ("time", f"{time['first']} to {time['last']} ({time['days']:,.0f} days), unit {time['unit'] or 'microseconds'}")
        )
        facts.append(("ties", f"{time['ties']:.1%} of the events have the time of the event before"))
    facts.append(("repeats", f"{found['repeats']:.1%} of the events; {found['duplicates']:,} exact duplicates"))
    if rating is not None:
        counts = ", ".join(f"{value}: {count:,}" for value, count in rating.get("counts", {}).items())
        facts.append(
            ("rating", f"{rating['min']:g} to {rating['max']:g}, mean {rating['mean']:.2f}" + (f" ({counts})" if counts else ""))
        )
    if found["types"]:
        facts.append(("types", ", ".join(f"{name}: {count:,}" for name, count in found["types"].items())))
    for what in ("item", "user"):
        if columns := found[f"{what}_columns"]:
            facts.append((f"{what} columns", ", ".join(f"{name} {share:.0%}" for name, share in columns.items())))
    for name, entry in found["attributes"].items():
        facts.append(
            (
                f"attribute {name}",
                f"{entry['values']:,} values, {entry['per_item']:.1f} an item, on {entry['coverage']:.0%} of them",
            )
        )
    if edges is not None:
        facts.append(
            (
                "edges",
                f"{edges['edges']:,} with {edges['relations']:,} relations between {edges['entities']:,} entities; "
                f"{edges['items_linked']:,} items linked",
            )
        )
    if about.get("columns"):
        guessed = set(about.get("guessed", ()))
        facts.append(
            (
                "columns",
                ", ".join(f"{role} = {name}{' (guessed)' if role in guessed else ''}" for role, name in about["columns"].items()),
            )
        )
    if "rows" in about:
        left = {
            "quarantined": about["quarantined"],
            **about["filtered"],
            "duplicates dropped": about["duplicates_dropped"],
        }
        gone = "".join(f", {count:,} {why}" for why, count in left.items() if count)
        facts.append(("rows read", f"{about['rows']:,} = {found['events']:,} events{gone}"))
    if about.get("not_read"):
        facts.append(("not read", ", ".join(about["not_read"])))
    facts += [("note", note) for note in about.get("notes", ())]
    return facts


def _spread(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.1f}" if name == "mean" else f"{name} {value:,.0f}" for name, value in numbers.items())
