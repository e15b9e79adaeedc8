"""`lmrs evaluate RUN`: measure a saved run, on its own data or on other data."""

from __future__ import annotations

import json
from typing import Any

import click

from lmrs.cli import options


@click.command()
@click.argument("run")
@options.measure
@click.option("--part", type=click.Choice(["test", "valid"]), default="test", show_default=True, help="Which queries.")
@click.option("--ask", metavar="QUESTION", help="Another question than it was fitted for (p5: rating, explanation, ...).")
@options.data_options(required=False)
@click.option(
    "--out",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="Where to write the report [default: RUN; with --data or --ask nowhere].",
)
@click.option("--seed", type=int, help="Of ties, negatives and intervals [default: the run's].")
@options.device
@options.threads
@options.quiet
@options.as_json
def evaluate(
    run: str,
    measures: tuple[str, ...],
    part: str,
    ask: str | None,
    out: str | None,
    seed: int | None,
    device: str,
    threads: int | None,
    quiet: bool,
    as_json: bool,
    **data: Any,
) -> None:
    """Evaluate the recommender in the folder RUN.

    With --data, items are matched by their ids; how many the recommender does not know is reported.
    """
    from pathlib import Path

    from lmrs.fit import Execution
    from lmrs.hardware import keep_memory, use_threads
    from lmrs.progress import Reporter
    from lmrs.run import again

    keep_memory()
    use_threads(threads)
    other = options.the_data(**data) if data["data"] is not None else None
    with Reporter(quiet=quiet) as reporter:
        found = again(
            Path(run),
            measures=measures or None,
            data=other,
            part=part,
            ask=ask,
            seed=seed,
            device=str(Execution(device=device).resolved()),
            reporter=reporter,
        )
    if out is not None or (other is None and part == "test" and ask is None):
        found.save(Path(out or run))
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=2))
        return
    from lmrs.cli import show

    show.evaluation(found)
