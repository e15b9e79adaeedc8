"""Runs side by side: means with intervals, paired tests against a reference, and a refusal where numbers must not be compared."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmrs.cards import Cost, Protocol, differences
from lmrs.errors import CheckpointError, ContractError, UserError, did_you_mean
from lmrs.measures import canonical
from lmrs.statistics import RESAMPLES, Interval, holm, seeds_difference, seeds_interval, sign_flip_test


@dataclass(frozen=True, eq=False)
class Run:
    """The evaluation of one run folder. query: int64[Q], rising. user: text [Q]. values: float64[Q] of the measure."""

    folder: str
    protocol: Protocol
    cost: Cost
    query: np.ndarray
    user: pa.Array
    values: np.ndarray


@dataclass(frozen=True)
class Row:
    """One system: one run, or several that differ in their seed alone.

    interval: of the mean, over users (and seeds where there are several). difference, p, p_holm: against the reference;
    None for the reference itself. p is the paired randomisation test over users, of the mean over seeds; p_holm is corrected
    for the number of rows tested. fit_wall_s: mean seconds of a fit, None where it was not measured here.
    """

    system: str
    folders: tuple[str, ...]
    seeds: tuple[int, ...]
    interval: Interval
    difference: Interval | None
    p: float | None
    p_holm: float | None
    fit_wall_s: float | None
    parameters: int


@dataclass(frozen=True)
class Comparison:
    """Rows in the order given. reference: place of the row the others are tested against. protocol: what the runs agree on."""

    measure: str
    reference: int
    queries: int
    rows: tuple[Row, ...]
    protocol: Protocol

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        shared = {name: value for name, value in self.protocol.to_dict().items() if name not in ("system", "settings", "seeds")}
        return {
            "measure": self.measure,
            "reference": self.rows[self.reference].system,
            "queries": self.queries,
            "rows": [asdict(row) for row in self.rows],
            "protocol": shared,
        }


def compare(
    folders: Sequence[str | Path],
    *,
    measure: str = "NDCG@10",
    against: str = "first",
    group: bool = True,
    resamples: int = RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare evaluated run folders on one measure, query by query.

    measure: a name that `lmrs evaluate` put into the per-user table. against: "first" or "best" row. group: runs of the same
    system with the same settings and different seeds form one row. resamples, level, seed: of the intervals and tests.

    Raises ContractError if the runs' protocols differ (naming the field and both values) or their queries do; UserError for
    an unknown measure or fewer than two rows; CheckpointError for a folder without a readable evaluation.
    """
    name = canonical(measure)
    if against not in ("first", "best"):
        raise UserError(needed="a reference, first or best", came=repr(against))
    runs = [read_run(Path(folder), measure=name) for folder in folders]
    for run in runs[1:]:
        _check_comparable(runs[0], run)
    groups = _groups(runs, group=group)
    if len(groups) < 2:
        raise UserError(
            needed="at least two systems to compare", came=f"{len(groups)} in {len(runs)} runs", remedy="name more run folders"
        )
    values = [np.stack([run.values for run in runs_of]) for runs_of in groups]
    reference = 0 if against == "first" else int(np.argmax([each.mean() for each in values]))
    base = values[reference]
    p = [sign_flip_test(each.mean(axis=0), base.mean(axis=0), seed=seed, resamples=resamples) for each in values]
    others = [place for place in range(len(groups)) if place != reference]
    corrected = dict(zip(others, holm(np.array([p[place] for place in others])).tolist()))
    rows = []
    for place, (runs_of, each) in enumerate(zip(groups, values)):
        other = place != reference
        walls = [run.cost.fit.wall_s for run in runs_of if run.cost.fit is not None]
        rows.append(
            Row(
                system=runs_of[0].protocol.system,
                folders=tuple(run.folder for run in runs_of),
                seeds=tuple(value for run in runs_of for value in run.protocol.seeds),
                interval=seeds_interval(each, seed=seed, resamples=resamples, level=level),
                difference=seeds_difference(each, base, seed=seed, resamples=resamples, level=level) if other else None,
                p=p[place] if other else None,
                p_holm=corrected.get(place),
                fit_wall_s=float(np.mean(walls)) if walls else None,
                parameters=runs_of[0].cost.parameters_total,
            )
        )
    return Comparison(name, reference, len(runs[0].query), tuple(rows), runs[0].protocol)


def read_run(folder: Path, *, measure: str) -> Run:
    """The protocol, the cost and one measure's per-user values from `folder/evaluation/`."""
    place = folder / "evaluation"
    if not (place / "report.json").is_file() or not (place / "queries.parquet").is_file():
        came = "no such folder" if not folder.is_dir() else "no evaluation in it"
        raise CheckpointError(needed=f"an evaluated run in {folder}", came=came, remedy=f"run lmrs evaluate {folder}")
    try:
        report = json.loads((place / "report.json").read_text(encoding="utf-8"))
        cards = Protocol.from_dict(report["protocol"]), Cost.from_dict(report["cost"])
        names = pq.read_schema(place / "queries.parquet").names
        found = measure in names
        table = pq.read_table(place / "queries.parquet", columns=["query", "user", *([measure] if found else [])])
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        raise CheckpointError(
            needed=f"a readable evaluation in {place}",
            came=str(error).splitlines()[0][:120],
            remedy=f"run lmrs evaluate {folder} again",
        ) from error
    if not found:
        measured = [name for name in names if name not in ("query", "user", "targets")]
        raise UserError(
            needed=f"the measure {measure} in {folder}",
            came=", ".join(measured) or "none",
            remedy=did_you_mean(measure, measured),
        )
    table = table.sort_by("query").combine_chunks()
    values = table.column(measure).to_numpy().astype(np.float64)
    if not np.isfinite(values).all():
        raise CheckpointError(
            needed=f"finite {measure} in {place}", came="NaN or infinite values", remedy=f"run lmrs evaluate {folder} again"
        )
    return Run(str(folder), *cards, table.column("query").to_numpy(), table.column("user").combine_chunks(), values)


def _check_comparable(a: Run, b: Run) -> None:
    found = differences(a.protocol, b.protocol)
    if found:
        raise ContractError(
            needed="runs measured by one protocol",
            came=f"{a.folder} and {b.folder} with {'; '.join(map(str, found))}",
            remedy="evaluate them in the same way",
        )
    if not np.array_equal(a.query, b.query) or a.user.cast(pa.large_string()) != b.user.cast(pa.large_string()):
        raise ContractError(
            needed="the same queries in every run",
            came=f"{len(a.query):,} in {a.folder} and {len(b.query):,} others in {b.folder}",
            remedy="evaluate both on the same part of the same data",
        )


def _groups(runs: list[Run], *, group: bool) -> list[list[Run]]:
    """Runs that differ in seed alone together, in order of first appearance; a second run of the same seed stands alone."""
    found: dict[str, list[Run]] = {}
    for place, run in enumerate(runs):
        card = {name: value for name, value in run.protocol.to_dict().items() if name != "seeds"}
        key = json.dumps(card, sort_keys=True) if group else str(place)
        seeds = {value for other in found.get(key, ()) for value in other.protocol.seeds}
        if key in found and (not run.protocol.seeds or seeds & set(run.protocol.seeds)):
            key = f"{key} {place}"
        found.setdefault(key, []).append(run)
    return list(found.values())
