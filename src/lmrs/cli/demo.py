"""`lmrs demo`: language-modelling systems beside honest controls on MovieLens-100K, and lists of films to judge by eye."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lmrs.cli import options

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lmrs.evaluate import Evaluation
    from lmrs.recommender import Recommender
    from lmrs.split import Queries

CONTROLS = ("popularity", "recent-popularity", "markov", "item-knn", "ease")
# Long histories are read in windows. The epochs are what a laptop does in minutes; a study trains until validation stops rising.
WINDOWS: dict[str, Any] = {"max_len": 50, "stride": 50, "jitter": True}
LEARNERS: dict[str, dict[str, Any]] = {
    "gru4rec": {**WINDOWS, "epochs": 20, "every": 4},
    "sasrec": {**WINDOWS, "epochs": 28, "every": 4},
    "bert4rec": {**WINDOWS, "epochs": 40, "every": 8},
}
SHOWN = ("sasrec", "bert4rec", "item-knn")  # whose lists are printed
USERS = 3
NEXT = """with your own data (columns user, item, time):
  lmrs data inspect your.csv
  lmrs fit sasrec --data your.csv --out runs/mine
  lmrs recommend runs/mine --history ID,ID,ID"""


@click.command()
@click.option("--data", default="movielens-100k", show_default=True, metavar="NAME_OR_PATH", help="Other data.")
@click.option(
    "--out", default="runs/demo", show_default=True, metavar="FOLDER", type=click.Path(file_okay=False), help="Where the runs go."
)
@click.option("--epochs", type=click.IntRange(min=1), help="Of every learned system, instead of what takes a few minutes.")
@click.option("--seed", default=0, show_default=True, help="Of everything that is drawn.")
@options.fit_threads
@options.quiet
def demo(data: str, out: str, epochs: int | None, seed: int, threads: int | None, quiet: bool) -> None:
    """Fit three language-modelling recommenders beside five controls, show what each is worth, and recommend by title.

    A demo that was stopped goes on where it was when it is started again.
    """
    from lmrs.cli import show
    from lmrs.fit import Execution
    from lmrs.hardware import keep_memory, use_threads
    from lmrs.interrupts import Interrupted
    from lmrs.progress import Reporter
    from lmrs.recommender import Recommender
    from lmrs.run import MODEL, RUN, Data, train

    keep_memory()
    use_threads(threads)
    console = show.console()
    spec, folder, execution = Data(source=data), Path(out), Execution(threads="auto" if threads is None else threads)
    found: dict[str, Evaluation] = {}
    with Reporter(quiet=quiet) as reporter:
        dataset = spec.load()
        split = spec.divide(dataset)
        reporter.say(f"{dataset.name}: {dataset.n_users:,} users, {dataset.n_items:,} items, {dataset.n_events:,} events")
        for name in (*CONTROLS, *LEARNERS):
            given = dict(LEARNERS.get(name, {}))
            if epochs is not None and given:
                given |= {"epochs": epochs, "every": max(1, epochs // 4)}
            reporter.say(name)
            there = (folder / name / RUN).is_file()
            try:
                found[name] = train(
                    name, given, spec, out=folder / name, seed=seed, resume=there, execution=execution,
                    loaded=(dataset, split), reporter=reporter,
                )  # fmt: skip
            except Interrupted as stopped:
                raise Interrupted(stopped.code, stopped.what, "go on with the same command") from None
    console.print(_table(found))
    lists = {name: Recommender.load(folder / name / MODEL) for name in SHOWN}
    for part in _people(split.test, lists):
        console.print(part, highlight=False)
    runs = " ".join(str(folder / name) for name in ("item-knn", *LEARNERS))
    click.echo(f"\nwhich differences are real:\n  lmrs compare {runs}\n{NEXT}")


def _table(found: dict[str, Evaluation]) -> RenderableType:
    """One row a system: quality with intervals, what it recommends, cost."""
    from rich import box
    from rich.table import Table

    from lmrs.cli import show

    first = next(iter(found.values()))
    threads = " or ".join(str(each) for each in sorted({each.cost.threads for each in found.values()}))
    best = max(found, key=lambda name: found[name].measures["NDCG@10"])
    out = Table(
        box=box.SIMPLE_HEAD,
        title=show.protocol(first.protocol),
        caption=f"Brackets: 95 % bootstrap intervals over users. Threads: {threads}; seed: {first.protocol.seeds[0]}.",
        title_justify="left",
        caption_justify="left",
    )
    out.add_column("system", no_wrap=True)
    for name in ("HR@10", "NDCG@10", "coverage", "fit", "parameters"):
        out.add_column(name, justify="right", no_wrap=True)
    for name, each in found.items():
        spent, (low, high) = each.cost.fit, each.intervals["NDCG@10"]
        out.add_row(
            name,
            f"{each.measures['HR@10']:.3f}",
            f"{each.measures['NDCG@10']:.3f} \\[{low:.3f}, {high:.3f}]",
            f"{each.measures['Coverage@10']:.3f}",
            "" if spent is None else show.seconds(spent.wall_s),
            f"{each.cost.parameters_total:,}",
            style="bold" if name == best else None,
        )
    return out


def _people(queries: Queries, lists: dict[str, Recommender]) -> list[RenderableType]:
    """Some users, evenly spaced, not chosen by how well it went: their last items, what came next, what was recommended."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    dataset = queries.dataset
    out: list[RenderableType] = []
    for place in [int((2 * number + 1) * len(queries) / (2 * USERS)) for number in range(min(USERS, len(queries)))]:
        history, truth = queries.history(place), dataset.titles(queries.truth(place))
        user = dataset.vocab.users[int(queries.user[place])].as_py()
        told = " > ".join(escape(title) for title in dataset.titles(history[-5:]))
        out.append(
            f"\n[bold]user {escape(user)}[/] had {len(history)} items, lately: {told}\n[bold]then came[/] {escape(truth[0])}"
        )
        table = Table(box=box.SIMPLE_HEAD)
        for name in lists:
            table.add_column(f"{name} recommends")
        ranked = [each.recommend(dataset.vocab.item_ids(history), k=5).titles for each in lists.values()]
        for row in zip(*ranked, strict=True):
            table.add_row(*(f"[bold green]{escape(title)}[/]" if title in truth else escape(title) for title in row))
        out.append(table)
    return out
