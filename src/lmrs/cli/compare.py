"""`lmrs compare RUN RUN ...`: which run is better, by how much, and how sure that is."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

    from lmrs.compare import Comparison


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN RUN ...")
@click.option("--measure", default="NDCG@10", show_default=True, help="One measure of the per-user table.")
@click.option(
    "--against", type=click.Choice(["first", "best"]), default="first", show_default=True, help="The row to test against."
)
@click.option("--group/--no-group", default=True, show_default=True, help="Put runs that differ in seed alone into one row.")
@click.option("--level", default=0.95, show_default=True, help="Coverage of the intervals.")
@click.option("--seed", default=0, show_default=True, help="Seed of the resamples.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def compare(runs: tuple[str, ...], measure: str, against: str, group: bool, level: float, seed: int, as_json: bool) -> None:
    """Compare evaluated runs with paired tests, Holm-corrected; refuse if their protocols differ."""
    from lmrs.compare import compare as compare_runs

    found = compare_runs(runs, measure=measure, against=against, group=group, level=level, seed=seed)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    from lmrs.cli.show import console

    console().print(table(found))


def table(found: Comparison) -> Table:
    """The comparison for people: one row a system, differences and p values against the reference."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    base = found.rows[found.reference]
    card, level = found.protocol, base.interval.level
    asked = f"{card.split}, {card.part} part, {found.queries:,} queries, candidates {card.candidates}"
    out = Table(
        box=box.SIMPLE_HEAD,
        title=f"{found.measure} on {card.data}: {asked}",
        caption=f"Against {base.system}: differences, and p of two-sided paired randomisation tests, Holm-corrected for "
        f"{len(found.rows) - 1}. Brackets: {level:.0%} bootstrap over users, and over seeds where there are several.",
        title_justify="left",
        caption_justify="left",
    )
    out.add_column("system", overflow="fold")
    for name in ("seeds", found.measure, "difference", "p", "p (Holm)", "fit", "parameters"):
        out.add_column(name, justify="right", no_wrap=True)
    for place, row in enumerate(found.rows):
        reference = place == found.reference
        same = sum(other.system == row.system for other in found.rows) > 1
        out.add_row(
            escape(f"{row.system} ({row.folders[0]})" if same else row.system),
            str(len(row.seeds) or 1),
            escape(f"{row.interval.mean:.4f} [{row.interval.low:.4f}, {row.interval.high:.4f}]"),
            "reference"
            if reference or row.difference is None
            else escape(f"{row.difference.mean:+.4f} [{row.difference.low:+.4f}, {row.difference.high:+.4f}]"),
            "" if row.p is None else _p(row.p),
            "" if row.p_holm is None else _p(row.p_holm),
            "" if row.fit_wall_s is None else f"{row.fit_wall_s:,.1f} s",
            f"{row.parameters:,}",
        )
    return out


def _p(p: float) -> str:
    return f"{p:.4f}" if p >= 0.001 else f"{p:.1e}"
