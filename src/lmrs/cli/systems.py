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

    if name is not None:
        found = [entry(settings.canonical(name), settings.find(name))]
    else:
        found = entries()
    if as_json:
        click.echo(json.dumps([each.to_dict() for each in found], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if name is not None:
        each = found[0]
        paper = each.paper
        console.print(f"{each.name}: {each.about}", highlight=False, markup=False)
        console.print(f"{paper.authors} ({paper.year}). {paper.title}. {paper.venue} {paper.arxiv}".strip(), highlight=False, markup=False)
        told = f"; the survey says {each.survey}" if each.survey else ""
        console.print(f"strategy: {each.cell}{told}. reads: {', '.join(each.data)}", highlight=False, markup=False)
        console.print(f"objectives: {', '.join(each.objectives)}", highlight=False, markup=False)
        console.print("options (--set key=value):", highlight=False)
        for key, default in each.options.items():
            console.print(f"  {key}={default}", highlight=False, markup=False)
        if each.departures:
            console.print(f"differs from the paper: {each.departures}", highlight=False, markup=False)
        return
    table = Table(caption="lmrs systems NAME tells all about one. Strategies are computed from the stages.", caption_justify="left")
    for heading in ("system", "paper", "strategy", "survey says", "reads", "objectives"):
        table.add_column(heading)
    for each in found:
        paper = each.paper
        table.add_row(
            each.name, f"{paper.authors} {paper.year}", each.cell, each.survey, ", ".join(each.data), ", ".join(each.objectives)
        )
    console.print(table)
