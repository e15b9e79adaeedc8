"""`lmrs explain RUN --item ITEM --user USER`: why somebody chose, or would choose, an item."""

from __future__ import annotations

import json

import click

from lmrs.cli import options
from lmrs.cli.history import load, whose


@click.command()
@click.argument("run")
@click.option("--item", required=True, metavar="ID_OR_TITLE", help="The item in question.")
@click.option("--user", metavar="USER", help="Who: a user of the run's data.")
@click.option("--history", metavar="ID,ID,...", help="Ids or titles, oldest first, for systems that know no users.")
@click.option("--feature", metavar="WORD", help="What to speak of, for systems that read it (peter with feature=True).")
@click.option("-k", "k", default=1, show_default=True, help="How many reasons, if there are several.")
@options.as_json
def explain(run: str, item: str, user: str | None, history: str | None, feature: str | None, k: int, as_json: bool) -> None:
    """Say why USER chose ITEM, or would choose it, with the recommender in the folder RUN."""
    from pathlib import Path

    from lmrs.errors import UserError
    from lmrs.models import Model

    if user is not None and history is not None:
        raise UserError(needed="--user or --history", came="both", remedy="leave one out")
    folder = Path(run)
    recommender = load(folder)
    knows = isinstance(recommender.system.model, Model) and recommender.system.model.knows_users
    events, _, notes = whose(recommender, folder, history, (), None if knows else user)
    notes = [*recommender.notes, *notes]
    found = recommender.explain(item, user=user if knows else None, history=events, feature=feature, k=k)
    if as_json:
        shown = {"item": item, "user": user, "history": events, "reasons": [each.text for each in found]}
        click.echo(json.dumps({**shown, "notes": notes}, indent=2))
        return
    for note in notes:
        click.echo(note, err=True)
    for each in found:
        click.echo(each.text)
    if not found:
        click.echo("no reason was found", err=True)
