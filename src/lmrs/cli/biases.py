"""`lmrs biases RUN`: what else than the history decides the scores of a saved run."""

from __future__ import annotations

import json

import click

from lmrs.cli import options


@click.command()
@click.argument("run")
@click.option("--queries", type=click.IntRange(1), default=100, show_default=True, help="How many users are asked.")
@click.option("--candidates", type=click.IntRange(2), default=99, show_default=True, help="Drawn items for each.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the drawn items and of the other order.")
@options.threads
@options.as_json
def biases(run: str, queries: int, candidates: int, seed: int, threads: int | None, as_json: bool) -> None:
    """How popularity, the length of titles, the model's habit and the order of the history show in the scores of RUN.

    Items that the users did not take are scored after their histories; 0 is no bias, 1 and -1 are the largest.
    """
    from pathlib import Path

    from lmrs.biases import measure
    from lmrs.errors import DataError, UserError
    from lmrs.hardware import keep_memory, use_threads
    from lmrs.recommender import Recommender
    from lmrs.run import MODEL, read_record
    from lmrs.split import fewer

    keep_memory()
    use_threads(threads)
    folder = Path(run)
    record, recommender = read_record(folder), Recommender.load(folder / MODEL)
    view = recommender.system.task.serving
    if view is None:
        raise UserError(
            needed="a system that ranks items for a history", came=recommender.name, remedy="lmrs systems lists what each does"
        )
    dataset = record.data.load()
    if dataset.fingerprint != record.data_hash:
        raise DataError(
            needed=f"the data that the run in {run} was fitted on", came="a data set that has changed since", remedy="fit again"
        )
    asked = fewer(record.data.divide(dataset), test=queries).test
    found = measure(
        recommender.scorer, recommender.objective, view, asked, recommender.vocab, candidates=candidates, seed=seed
    )  # fmt: skip
    if as_json:
        means = {name: dict(zip(("mean", "low", "high"), each, strict=True)) for name, each in found.means().items()}
        told = {"queries": len(asked), "candidates": candidates, "unit": found.unit, "biases": means}
        click.echo(json.dumps(told, indent=2))
        return
    click.echo(str(found))
