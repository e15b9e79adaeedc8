"""`lmrs demo`: several systems on MovieLens-100K, side by side, in a few minutes."""

from __future__ import annotations

import click

from lmrs.cli import options


@click.command()
@click.option("--data", default="movielens-100k", show_default=True, metavar="NAME_OR_PATH", help="Other data.")
@click.option(
    "--out", default="runs/demo", show_default=True, metavar="FOLDER", type=click.Path(file_okay=False), help="Where runs go."
)
@click.option("--minutes", default=4.0, show_default=True, help="About how long to train in all; less is quicker and worse.")
@click.option("--seed", default=0, show_default=True, help="Of everything that is drawn.")
@options.threads
@options.quiet
def demo(data: str, out: str, minutes: float, seed: int, threads: int | None, quiet: bool) -> None:
    """Fit language-modelling recommenders beside honest controls, compare them, recommend films by title."""
    from pathlib import Path

    from lmrs.demo import play
    from lmrs.hardware import use_threads
    from lmrs.progress import Reporter

    use_threads(threads)
    with Reporter(quiet=quiet) as reporter:
        play(data, out=Path(out), minutes=minutes, seed=seed, reporter=reporter)
