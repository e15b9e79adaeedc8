"""`lmrs prompt show RUN`: what a language model reads when it is asked, letter for letter."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from lmrs.cli import options
from lmrs.cli.history import check_asked, load, whose
from lmrs.errors import ContractError

if TYPE_CHECKING:
    from lmrs.models.generative import GenerativeNetwork


@click.group()
def prompt() -> None:
    """Look at the prompts of a run."""


@prompt.command()
@click.argument("run")
@options.history
@options.as_json
def show(run: str, history: str | None, items: tuple[str, ...], user: str | None, as_json: bool) -> None:
    """Show the prompt for a history, as the model of the folder RUN reads it.

    What comes from the data stands in \u00ab \u00bb; slots and special tokens in brackets.
    """
    from pathlib import Path

    import numpy as np
    import torch

    from lmrs.batch import from_rows
    from lmrs.models.generative import GenerativeNetwork
    from lmrs.models.prompted import PromptedNetwork
    from lmrs.models.prompted_title import TitleNetwork

    check_asked(history, items, user)
    recommender = load(Path(run))
    network = recommender.scorer
    if not isinstance(network, PromptedNetwork | GenerativeNetwork):
        raise ContractError(
            needed="a run of a language model that reads prompts", came=recommender.name, remedy="such as zero-shot or language"
        )
    asked, _, notes = whose(recommender, Path(run), history, items, user)
    numbers = recommender.vocab.item_numbers(asked)
    notes += [f"unknown and left out: {text}" for text, number in zip(asked, numbers, strict=True) if number < 0]
    known = numbers[numbers >= 0]
    if not len(known):
        raise ContractError(needed="a history with an item that the run knows", came="none", remedy="give ids or titles it knows")
    batch = from_rows({"item": torch.from_numpy(known)}, torch.tensor([len(known)]))
    last, named = torch.tensor([len(known) - 1]), None
    if isinstance(network, GenerativeNetwork):
        _codes(network.show(batch, last)[0], network, notes, as_json=as_json)
        return
    if network.model.read == "words":
        named = known[-1:][None]  # any item shows where a candidate stands
        notes.append("the candidate shown is the history's last item")
    room = network.longest_answer if isinstance(network, TitleNetwork) else 0
    compiled = network.prompts(batch, last, room=room, candidates=named)
    unread = max(0, len(known) - network.model.max_len)
    if unread:
        notes.append(f"{unread} older items are not read (max_len {network.model.max_len})")
    if as_json:
        shown = {
            "template": str(network.template), "prompt": compiled.show(0), "tokens": len(compiled.ids),
            "ids": np.asarray(compiled.ids).tolist(), "report": str(compiled.report), "notes": notes,
        }  # fmt: skip
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    click.echo(f"template  {network.template}")
    click.echo(f"read as   {compiled.show(0)}")
    if network.model.read == "title":
        click.echo(
            f"asked     how likely each title is to follow, by {network.model.score}; a title ends with {network.model.ending!r}"
        )
    click.echo(f"size      {compiled.report}")
    for note in notes:
        click.echo(note, err=True)


def _codes(shown: str, network: GenerativeNetwork, notes: list[str], *, as_json: bool) -> None:
    """What a model reads that spells items; a bare history has no user, and is asked in words that name none."""
    if as_json:
        click.echo(json.dumps({"prompt": shown, "index": str(network.index), "notes": notes}, indent=2, ensure_ascii=False))
        return
    click.echo(f"read as   {shown}")
    click.echo(f"items     {network.index}")
    for note in notes:
        click.echo(note, err=True)
