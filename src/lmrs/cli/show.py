"""Evaluations and lists as people read them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from lmrs.cards import Cost, Protocol
    from lmrs.evaluate import Evaluation
    from lmrs.recommendations import Recommendations
    from lmrs.recommender import Reply


def evaluation(found: Evaluation) -> None:
    """Prints the protocol, the measures with their intervals, the cost, and what else a reader should know."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, value in found.measures.items():
        bounds = found.intervals.get(name)
        table.add_row(escape(name), f"{value:.4f}", "" if bounds is None else f"{bounds[0]:.4f} .. {bounds[1]:.4f}")
    out = console()
    out.print(f"{found.protocol.system} on {protocol(found.protocol, found.measures)}", highlight=False, markup=False)
    out.print(table)
    for line in (f"cost: {cost(found.cost)}", *facts(found)):
        out.print(line, highlight=False, markup=False)


def console() -> Console:
    """Standard output: as wide as the terminal, and 120 columns where there is none."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=120)


def protocol(card: Protocol, measures: Iterable[str] = ()) -> str:
    """One line: on what, asked how. measures: names of what was measured, which say if only drawn items were ranked."""
    drawn = {name.partition("/")[2] for name in measures}
    among = f"all {card.items:,} items" if card.candidates == "all" else card.candidates
    if drawn and "" not in drawn:
        among = "only drawn items (" + ", ".join(f"/{each}" for each in sorted(drawn)) + ")"
    filtered = "" if card.filter == "none" else f", {card.filter}"
    ranked = f"{among} ranked, seen items {card.seen}" if not among.startswith("none: ") else among.removeprefix("none: ")
    asked = f"{card.data}{filtered}, {card.split}, {card.part} part, {card.queries:,} queries"
    return f"{asked}, {ranked}, ties of time in {card.time_ties}"


COMPILES = {"untried": "off (not tried in so short a run)", "unable": "off (torch cannot compile here)"}


def cost(card: Cost) -> str:
    """One line: what it took."""
    parts = []
    if card.fit is not None:
        parts.append(f"fit {seconds(card.fit.wall_s)} ({seconds(card.fit.cpu_s)} of CPU)")
    if card.evaluate is not None:
        parts.append(f"evaluate {seconds(card.evaluate.wall_s)}")
    peak = max((spent.peak_memory_bytes for spent in (card.fit, card.evaluate) if spent is not None), default=0)
    parts.append(f"{card.parameters_total:,} parameters")
    if peak:
        parts.append(f"{peak / 2**20:,.0f} MiB of memory")
    if card.bytes_on_disk:
        parts.append(f"{card.bytes_on_disk / 2**20:,.1f} MiB on disk")
    threads = _threads(card.threads) + _tried((_threads(int(n)), rate) for n, rate in card.probed.get("threads", {}).items())
    products = _tried((f"products in {name}", rate) for name, rate in card.probed.get("precision", {}).items())
    precision = f", {card.precision}{products}" if products or card.precision != "fp32" else ""
    kernels = "".join(_task(name, card) for name in ("softmax", "attention", "ranking"))
    tried = _tried(card.probed.get("compile", {}).items())
    compiled = f", compile {COMPILES.get(card.compile, card.compile)}{tried}" if tried or card.compile != "off" else ""
    return f"{', '.join(parts)}; {threads} on {card.device}{precision}{kernels}{compiled}"


def _task(name: str, card: Cost) -> str:
    """Who did a task of the kernels in C, where they could."""
    tried = _tried(card.probed.get(name, {}).items())
    return f", {name} by {'native' if name in card.kernels else 'torch'}{tried}" if tried or name in card.kernels else ""


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def _tried(rates: Iterable[tuple[str, float]]) -> str:
    """What a probe found of the ways not taken, in brackets; "" where there was none."""
    told = ", ".join(f"{name}: {rate:.2f}x" for name, rate in rates)
    return f" ({told})" if told else ""


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def facts(found: Evaluation) -> list[str]:
    """What a reader of the table should also know."""
    told = found.facts
    lines = []
    if told.get("unknown_items"):
        lines.append(
            f"{told['unknown_items']:,.0f} items are unknown to the recommender: {told['unknown_history_events']:,.0f} events of "
            f"histories were ignored, {told['unknown_targets']:,.0f} items to be found count as misses"
        )
    for name, how in (
        ("new_targets", "texts or a graph tell them"),
        ("new_targets_blind", "this system knows nothing of them"),
    ):
        if told.get(name):
            lines.append(f"{told[name]:,.0f} times an item without training events was to be found: {how}")
    if told.get("without_history"):
        lines.append(f"{told['without_history']:,.0f} queries had no known history and got training popularity")
    if told.get("truth_seen"):
        lines.append(f"{told['truth_seen']:.1%} of the queries ask for an item the user already had; it stays a candidate")
    return lines + unread(told)


def unread(told: Mapping[str, float]) -> list[str]:
    """What a network that reads texts could not read (`Unread.facts`)."""
    lines = []
    if count := told.get("items_without_title"):
        lines.append(f"{_items(count)} no title: the model reads the id instead")
    if count := told.get("items_without_text"):
        lines.append(f"{_items(count)} no text: 'unknown item' is read instead")
    if count := told.get("prompts_cut"):
        lines.append(
            f"{count:,.0f} of {told['prompts']:,.0f} prompts were longer than the model's context: they lost their oldest items, "
            f"{told['entries_cut'] / count:,.1f} each"
        )
    return lines


def _items(count: float) -> str:
    return "1 item has" if count == 1 else f"{count:,.0f} items have"


def recommendations(found: Recommendations) -> Table:
    """The list, best first."""
    from rich.markup import escape
    from rich.table import Table

    out = Table()
    out.add_column("", justify="right")
    out.add_column("item", overflow="fold")
    titled = found.titles != found.ids
    if titled:
        out.add_column("title", overflow="fold")
    out.add_column("score", justify="right")
    for place, (key, title, score) in enumerate(zip(found.ids, found.titles, found.scores, strict=True), 1):
        out.add_row(str(place), escape(key), *([escape(title)] if titled else []), f"{score:.4f}")
    return out


def understood(found: Reply) -> list[str]:
    """Which items were found in what somebody said, and what was not."""
    lines = [f"understood: {_some(found.named_titles)}"] if found.named else []
    for what, pieces in (
        ("no title of the catalogue", found.unmatched),
        ("titles of several items: give the year", found.ambiguous),
        ("perhaps titles: put them in quotes, if they are meant", found.unsure),
    ):
        if pieces:
            lines.append(f"{what}: {_some(pieces)}")
    return lines


def remarks(found: Recommendations) -> list[str]:
    """What became of items it did not know."""
    lines = []
    if found.unknown:
        lines.append(f"unknown and ignored: {_some(found.unknown)}")
    if found.unknown_excluded:
        lines.append(f"unknown, so it could not come anyway: {_some(found.unknown_excluded)}")
    if found.fallback:
        lines.append(f"nothing in the history is known: this is {found.fallback}")
    return lines


def _some(ids: tuple[str, ...]) -> str:
    shown = ", ".join(text if len(text) <= 60 else text[:57] + "..." for text in ids[:5])
    return shown if len(ids) <= 5 else f"{shown} and {len(ids) - 5} more"
