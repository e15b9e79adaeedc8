"""`lmrs systems`: the catalogue."""

from __future__ import annotations

import json

import click

from lmrs.cli import options


@click.command()
@click.argument("name", required=False)
@options.as_json
def systems(name: str | None, as_json: bool) -> None:
    """List the systems: paper, training strategy, data, objectives. With NAME, tell all about one, its options included."""
    from lmrs import settings
    from lmrs.catalogue import entries, entry

    found = entries() if name is None else [entry(settings.canonical(name), settings.find(name))]
    if as_json:
        click.echo(json.dumps([each.to_dict() for each in found], indent=2))
        return
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from lmrs.cli import show

    console = show.console()
    if name is not None:
        each = found[0]
        paper = each.paper
        console.print(f"{each.name}: {each.about}", highlight=False, markup=False)
        console.print(
            f"{paper.authors} ({paper.year}). {paper.title}. {paper.venue} {paper.arxiv}".strip(), highlight=False, markup=False
        )
        told = f"; the survey says {each.survey}" if each.survey else ""
        console.print(f"strategy: {each.cell}{told}. reads: {', '.join(each.data)}", highlight=False, markup=False)
        console.print(f"objectives: {', '.join(each.objectives)}", highlight=False, markup=False)
        console.print("options (--set key=value):", highlight=False)
        for key, default in each.options.items():
            console.print(f"  {key}={default}", highlight=False, markup=False)
        if each.departures:
            console.print(f"differs from the paper: {each.departures}", highlight=False, markup=False)
        return
    table = Table(
        box=box.SIMPLE_HEAD,
        caption="Strategies are computed from the stages; [..] is what the survey prints. lmrs systems NAME tells all about one.",
        caption_justify="left",
    )
    for heading in ("system", "paper", "strategy", "reads", "objectives", "task"):
        table.add_column(heading, no_wrap=heading == "system")
    for each in found:
        source = f"{each.paper.authors} {each.paper.year}"
        told = f" [{each.survey}]" if each.survey not in ("", each.cell) else ""
        row = (each.name, source, each.cell + told, ", ".join(each.data), ", ".join(each.objectives), each.task)
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
