"""`lmrs fit SYSTEM --data NAME_OR_PATH --out RUN`: train, save, evaluate."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from lmrs.cli import options


@click.command()
@click.argument("system")
@options.data_options(required=True)
@click.option("--out", required=True, metavar="RUN", type=click.Path(file_okay=False), help="Folder of the run; it is made.")
@click.option(
    "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A keyword of the system, such as dim=64; may be repeated."
)
@click.option("--seed", default=0, show_default=True, help="Of everything that is drawn.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in RUN.")
@options.measure
@options.device
@options.fit_threads
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16-loss", "bf16", "auto"]),
    default="fp32",
    show_default=True,
    help="Of matrix products in the fit: bf16-loss rounds those of the full softmax; auto does where a probe finds it faster.",
)
@click.option(
    "--kernels",
    type=click.Choice(["auto", "torch", "native"]),
    default="auto",
    show_default=True,
    help="Softmax, attention, ranking on a processor: native is in C; auto takes each where it can be made and is faster.",
)
@click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Blocks of transformers through torch.compile; auto does where a long run gains more than starting takes, by a probe.",
)
@click.option("--micro-batch", type=click.IntRange(min=1), help="Rows of a forward pass, if a whole batch does not fit.")
@click.option("--checkpoint-every", type=click.IntRange(min=1), default=500, show_default=True, help="Steps between checkpoints.")
@options.quiet
@options.as_json
def fit(
    system: str,
    out: str,
    pairs: tuple[str, ...],
    seed: int,
    resume: bool,
    measures: tuple[str, ...],
    device: str,
    threads: int | None,
    precision: str,
    kernels: str,
    compile: str,
    micro_batch: int | None,
    checkpoint_every: int,
    quiet: bool,
    as_json: bool,
    **data: Any,
) -> None:
    """Train SYSTEM, save it and evaluate it on the test part.

    SYSTEM is a name that `lmrs systems` lists, or ./file.py:function for a system of your own.
    """
    from pathlib import Path

    from lmrs import settings
    from lmrs.fit import Execution
    from lmrs.hardware import keep_memory, use_threads
    from lmrs.models import Model
    from lmrs.progress import Reporter
    from lmrs.run import train
    from lmrs.views import Documents, Replies, Turns

    given = settings.parse(settings.find(system), pairs)
    use_threads(threads)
    keep_memory()
    execution = Execution(
        device=device,
        micro_batch=micro_batch,
        checkpoint_every=checkpoint_every,
        precision=precision,
        kernels=kernels,
        compile=compile,
        threads="auto" if threads is None else threads,
    )
    main = int(os.environ.get("RANK", "0")) == 0  # of processes that torchrun started together, one talks
    with Reporter(quiet=quiet or not main) as reporter:
        found = train(
            system,
            given,
            options.the_data(**data),
            out=Path(out),
            seed=seed,
            resume=resume,
            execution=execution,
            measures=measures or None,
            reporter=reporter,
        )
    if not main:
        return
    if as_json:
        click.echo(json.dumps({"run": out, **found.to_dict()}, indent=2))
        return
    from lmrs.cli import show

    show.evaluation(found)
    made = settings.make(settings.find(system), given)
    if isinstance(made.task.view, Documents):
        click.echo(f"next: lmrs recommend {out} --text {made.task.view.parts[0]}=...")
    elif isinstance(made.task.view, Turns | Replies):
        click.echo(f'next: lmrs recommend {out} --said "User: ..."')
    elif made.task.serving is not None:
        click.echo(f"next: lmrs recommend {out} --history ID,ID,...")
    elif isinstance(made.model, Model) and made.model.knows_users:
        click.echo(f"next: lmrs explain {out} --user USER --item ITEM")
