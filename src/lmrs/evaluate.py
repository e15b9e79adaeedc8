"""How good a recommender is: measures with intervals, the protocol they were taken by, what it cost, and a row for every user."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lmrs.cards import SCORE_TIES, Cost, Protocol, metered
from lmrs.dataset import Dataset
from lmrs.errors import ContractError, DataError, UserError
from lmrs.files import storage, write_atomic
from lmrs.fit import Fitted
from lmrs.judge import Judged, judge, judge_among
from lmrs.kernels import fastest
from lmrs.measures import MAE, RMSE, Lists, Measure, Sampled, Sampling, parse
from lmrs.models import Model
from lmrs.models.network import Network
from lmrs.native import by_kernel
from lmrs.negatives import ByPopularity, Uniform
from lmrs.progress import Reporter
from lmrs.recommender import Recommender
from lmrs.split import Queries, Split
from lmrs.statistics import bootstrap_mean
from lmrs.system import Stage, System
from lmrs.tasks import Ranking, RecordTask, Task
from lmrs.views.dialogues import TurnRows

MEASURES = ("HR@10", "NDCG@10", "MRR@10", "Recall@20", "AUC", "Coverage@10", "Novelty@10", "PopularityBias@10")
AMONG = ("HR@10/99neg", "NDCG@10/99neg")  # for models that score item by item: the whole catalogue takes too long
FOLDER, REPORT, QUERIES, ANSWERS = "evaluation", "report.json", "queries.parquet", "answers.parquet"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    measures: means over all queries, by name. intervals: 95 % bootstrap intervals (low, high) of those that are means over users.
    protocol, cost: the two cards. table: one row a query: query, user (id), targets, and one column for each measure by user.
    answers: what was answered beside it, one row a query (texts that were written), or None.
    facts: what else should be known (JSON numbers): queries answered without history, share asking for an item already seen,
    unknown items, items without a title or text, prompts that were longer than the context.
    """

    measures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    protocol: Protocol
    cost: Cost
    table: pa.Table = field(repr=False)
    facts: dict[str, float] = field(default_factory=dict)
    answers: pa.Table | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """JSON values: what `report.json` holds."""
        return {
            "measures": self.measures,
            "intervals": {name: list(pair) for name, pair in self.intervals.items()},
            "protocol": self.protocol.to_dict(),
            "cost": self.cost.to_dict(),
            "facts": self.facts,
        }

    def save(self, run: Path | str) -> Path:
        """Writes `run/evaluation/report.json`, `queries.parquet` and, if there are any, `answers.parquet`; returns the folder."""
        folder = Path(run) / FOLDER
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / QUERIES, lambda file: pq.write_table(self.table, file))
        if self.answers is not None:
            write_atomic(folder / ANSWERS, lambda file: pq.write_table(self.answers, file))
        write_atomic(folder / REPORT, json.dumps(self.to_dict(), indent=1, allow_nan=False).encode() + b"\n")
        return folder


def measured(run: Path | str) -> list[str]:
    """The names of the measures in the report of a run; empty if it has none that can be read."""
    try:
        return list(json.loads((Path(run) / FOLDER / REPORT).read_bytes())["measures"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def evaluate(
    recommender: Recommender | Fitted,
    asked: Split | Queries,
    *,
    measures: Sequence[str | Measure] | None = None,
    part: str = "test",
    seed: int = 0,
    cost: Cost | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Rank the whole catalogue for every query of a part of a split, or ask what else the system's task asks, and measure.

    asked: a Split, or Queries of one's own. Items are matched by id; unknown ones in a history are ignored, unknown ones to be
    found are misses, and both are counted in `facts`. measures: names or values; "NDCG@10/99neg" ranks among drawn negatives
    and says so. None: MEASURES, or AMONG for a model that scores item by item.
    part: "test" or "valid". seed: of ties, drawn negatives and resamples. cost: what the fit took (of a Fitted: known).

    Raises UserError for unknown measures and parts, DataError if no queries or hardly any known items are there.
    """
    if isinstance(recommender, Fitted):
        cost = cost or cost_of(recommender)
        recommender = Recommender.of(recommender)
    task = recommender.system.task
    chosen = chosen_measures(default_measures(recommender.system) if measures is None else measures, task)
    queries = _part(asked, part) if isinstance(asked, Split) else asked
    about = asked.about if isinstance(asked, Split) else {"split": "own queries"}
    if isinstance(task, RecordTask):
        return _records(recommender, task, queries, chosen, about, part=part, seed=seed, cost=cost, reporter=reporter)
    matched, unknown, facts = match(queries, recommender)
    samplings = tuple(dict.fromkeys(each.sampling for each in chosen if isinstance(each, Sampled)))
    if samplings and unknown:
        raise ContractError(
            needed="a recommender that knows all items to be found, for sampled measures",
            came=f"{unknown:,} unknown ones",
            remedy="leave the sampled measures out",
        )
    k = max(10, *(getattr(each, "k", None) or 0 for each in chosen))
    asked_of = (recommender.scorer, recommender.objective, task, matched, recommender.vocab)
    kernel, tasks = fastest() if isinstance(recommender.scorer, Network) else (None, ())
    with metered() as meter, _read(recommender) as told, by_kernel(kernel, tasks):
        if all(isinstance(each, Sampled) for each in chosen):  # then nobody needs the scores of the whole catalogue
            values, known = _among(chosen, samplings, asked_of, seed=seed, device=recommender.device, reporter=reporter)
        else:
            judged = judge(
                *asked_of, k=k, seed=seed, device=recommender.device, samplings=samplings, unknown=unknown, reporter=reporter
            )
            values = {str(each): _measured(each, judged, matched, recommender) for each in chosen}
            known = {"without_history": judged.fallback, "truth_seen": judged.truth_seen}
        means = {name: float(np.mean(value)) for name, value in values.items()}
        per_user = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        bounds = {name: bootstrap_mean(value, seed=seed) for name, value in per_user.items()}
    return Evaluation(
        measures=means,
        intervals={name: (each.low, each.high) for name, each in bounds.items()},
        protocol=_protocol(recommender, queries, about, part=part, k=k),
        cost=replace(cost or cost_of(recommender), evaluate=meter.spent),
        table=_table(queries, per_user),
        facts={**facts, **known, **told, **_new(recommender, _wanted(matched))},
    )


def _records(
    recommender: Recommender,
    task: RecordTask,
    queries: Queries,
    chosen: Sequence[Any],
    about: dict[str, Any],
    *,
    part: str,
    seed: int,
    cost: Cost | None,
    reporter: Reporter | None,
) -> Evaluation:
    """`evaluate` for a task whose questions are records."""
    if queries.dataset.vocab.fingerprint != recommender.vocab.fingerprint:
        raise DataError(
            needed="data with the catalogue that the recommender was trained on", came=queries.dataset.name,
            remedy="evaluate on its own data, or fit anew",
        )  # fmt: skip
    rows = task.rows(queries)
    if not len(rows):
        raise DataError(needed=f"questions in the {part} part", came="none", remedy="choose another split or more data")
    with metered() as meter, _read(recommender) as told:
        found = task.judge(
            recommender.scorer, recommender.objective, rows, recommender.vocab,
            measures=chosen, seed=seed, device=recommender.device, reporter=reporter,
        )  # fmt: skip
    per_query = {name: value for name, value in found.values.items() if isinstance(value, np.ndarray)}
    bounds = {name: bootstrap_mean(value, seed=seed) for name, value in per_query.items()}
    users = queries.dataset.vocab.users.cast(pa.large_string()).take(pa.array(found.user))
    numbered = {"query": np.arange(len(users)), "user": users}
    return Evaluation(
        measures={name: float(np.mean(value)) for name, value in found.values.items()},
        intervals={name: (each.low, each.high) for name, each in bounds.items()},
        protocol=replace(
            _protocol(recommender, queries, about, part=part, k=0), queries=len(users), candidates=task.among, seen=task.seen
        ),
        cost=replace(cost or cost_of(recommender), evaluate=meter.spent),
        table=pa.table({**numbered, "targets": found.targets, **per_query}),
        facts={**found.facts, **told, **(_new(recommender, rows.target) if isinstance(rows, TurnRows) else {})},
        answers=pa.table({**numbered, **found.columns}) if found.columns else None,
    )


@contextmanager
def _read(recommender: Recommender) -> Iterator[dict[str, float]]:
    """What the scorer could not read of what it is asked meanwhile: filled at the end."""
    told: dict[str, float] = {}
    unread = recommender.scorer.unread
    if unread is not None:
        unread.restart()
    yield told
    if unread is not None:
        told |= unread.facts()


def default_measures(system: System) -> tuple[str, ...]:
    """What is measured if nobody says what."""
    if isinstance(system.task, RecordTask):
        return system.task.measures
    return AMONG if isinstance(system.model, Model) and system.model.by_item else MEASURES


def chosen_measures(measures: Sequence[str | Measure], task: Task) -> list[Any]:
    """The measures as values. Raises UserError for none, an unknown one, and one that does not judge the task."""
    if isinstance(task, RecordTask) and measures:
        return [task.measure(str(each)) for each in measures]
    chosen = [parse(each) if isinstance(each, str) else each for each in measures]
    if not chosen:
        raise UserError(needed="at least one measure", came="none", remedy=f"such as {MEASURES[0]}")
    for each in chosen:
        if isinstance(each, RMSE | MAE):
            raise UserError(
                needed="measures of a ranking",
                came=f"{each}, a measure of predicted ratings",
                remedy=f"choose among {', '.join(MEASURES)}",
            )
    return chosen


def match(queries: Queries, recommender: Recommender) -> tuple[Queries, int, dict[str, float]]:
    """(the queries in the recommender's item numbers, how many items to be found it does not know, counts for the report).

    Unknown items are left out of histories; as truth they get numbers from V on. Raises DataError if there are no queries, or
    if the recommender knows none of the items.
    """
    if not len(queries):
        raise DataError(needed="at least one query", came="none", remedy="choose another split or more data")
    dataset, vocab = queries.dataset, recommender.vocab
    if dataset.vocab.fingerprint == vocab.fingerprint and dataset.fingerprint == recommender.about.get("data_hash"):
        return queries, 0, {}
    number = vocab.item_numbers(dataset.vocab.items)
    known = number >= 0
    if not known.any():
        raise DataError(
            needed="data whose items the recommender knows",
            came=f"none of the {len(known):,} items of {dataset.name} among its {vocab.n_items:,}",
            remedy="evaluate on the catalogue it was trained on, or fit anew",
        )
    strange = np.flatnonzero(~known)
    number[strange] = vocab.n_items + np.arange(len(strange))
    # Every query gets a span of its own: its known history, then its truth.
    size = queries.target - queries.start
    query = np.repeat(np.arange(len(queries)), size)
    place = np.arange(len(query)) - np.repeat(np.cumsum(size) - size, size) + np.repeat(queries.start, size)
    history = place < queries.stop[query]
    item = number[dataset.item[place]]
    kept = ~history | (item < vocab.n_items)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(query[kept], minlength=len(queries)))])
    stop = offsets[:-1] + np.bincount(query[kept & history], minlength=len(queries))
    strangers = len(vocab.users)  # users are not matched: none of them may be taken for one of the training data
    own = Dataset(
        dataset.name,
        vocab,
        item[kept].astype(np.int32),
        np.concatenate([np.zeros(strangers, np.int64), offsets]),
        time=None if dataset.time is None else dataset.time[place][kept],
        users=_beside(strangers, dataset.users, queries.user),
    )
    facts: dict[str, float] = {
        "unknown_items": len(strange),
        "unknown_history_events": int((~kept).sum()),
        "unknown_targets": int((item[~history] >= vocab.n_items).sum()),
    }
    return Queries(own, strangers + np.arange(len(queries)), stop, offsets[1:]), len(strange), facts


def _new(recommender: Recommender, items: np.ndarray) -> dict[str, float]:
    """How many of the items to be found have no training events, and, in the name, whether the system can tell these apart."""
    counts = recommender.vocab.counts
    count = 0 if counts is None else int((counts[items[items < len(counts)]] == 0).sum())
    return {"new_targets" if recommender.system.model.knows_new else "new_targets_blind": count} if count else {}


def _wanted(queries: Queries) -> np.ndarray:
    """The items to be found, of all queries."""
    size = queries.target - queries.stop
    place = np.arange(int(size.sum())) - np.repeat(np.cumsum(size) - size - queries.stop, size)
    return queries.dataset.item[place]


def _beside(strangers: int, users: pa.Table | None, which: np.ndarray) -> pa.Table | None:
    """The user table's rows `which` after `strangers` empty ones; None where there is no table."""
    if users is None:
        return None
    nobody = pa.table([pa.nulls(strangers, each.type) for each in users.schema], schema=users.schema)
    return pa.concat_tables([nobody, users.take(pa.array(which))])


def cost_of(source: Recommender | Fitted) -> Cost:
    """The cost card as far as it is known without a run folder: parameters, and what the fit of a Fitted took."""
    import torch

    from lmrs.cards import Spent, peak_memory_bytes

    parameters = sum(p.numel() for p in source.scorer.parameters())
    if not isinstance(source, Fitted):
        return Cost(parameters_total=parameters, threads=torch.get_num_threads(), device=source.device)
    return Cost(
        fit=Spent(source.seconds, source.cpu_seconds, peak_memory_bytes()),
        parameters_total=parameters,
        parameters_trained=source.trained,
        targets=source.targets,
        threads=source.threads,
        precision=source.precision,
        kernels=list(source.kernels),
        compile=source.compile,
        probed=source.probed,
        device=Recommender.of(source).device,
    )


def _part(split: Split, part: str) -> Queries:
    if part not in ("test", "valid"):
        raise UserError(needed="the part 'test' or 'valid'", came=repr(part))
    return split.test if part == "test" else split.valid


def _among(
    chosen: Sequence[Measure],
    samplings: Sequence[Sampling],
    asked_of: tuple[Any, ...],
    *,
    seed: int,
    device: str,
    reporter: Reporter | None,
) -> tuple[dict[str, np.ndarray | float], dict[str, float]]:
    """The values of sampled measures, scoring no other items than the drawn ones."""
    fallback, ranks = 0, {}
    for sampling in samplings:
        ranks[sampling], fallback = judge_among(*asked_of, sampling=sampling, seed=seed, device=device, reporter=reporter)
    values: dict[str, np.ndarray | float] = {str(e): e(ranks[e.sampling]) for e in chosen if isinstance(e, Sampled)}
    return values, {"without_history": fallback}


def _measured(measure: Measure, judged: Judged, queries: Queries, recommender: Recommender) -> np.ndarray | float:
    if isinstance(measure, Sampled):
        return measure(judged.sampled[measure.sampling])
    if isinstance(measure, RMSE | MAE):
        raise TypeError(measure)
    if measure.reads == "ranks":
        return measure(judged.ranks)  # type: ignore[arg-type]
    lists: Lists = judged.lists(queries, recommender.vocab)
    return measure(lists)  # type: ignore[arg-type]


def _protocol(recommender: Recommender, queries: Queries, about: dict[str, Any], *, part: str, k: int) -> Protocol:
    dataset = queries.dataset
    stages = [stage for stage in recommender.system.stages if isinstance(stage, Stage)]
    return Protocol(
        data=dataset.name,
        data_hash=dataset.fingerprint,
        users=dataset.n_users,
        items=dataset.n_items,
        events=dataset.n_events,
        split=str(about.get("split", "")),
        parameters={name: value for name, value in about.items() if name not in ("split", "ties")},
        queries=len(queries),
        system=recommender.name,
        settings=recommender.settings,
        filter="{users}-{items}-core".format(**dataset.about["k_core"]) if "k_core" in dataset.about else "none",
        part=part,
        score_ties=SCORE_TIES,
        seen="left out" if isinstance(task := recommender.system.task, Ranking) and task.exclude_seen else "kept",
        k=k,
        objective="; ".join(f"{stage.name}: {stage.objective!r}" for stage in stages),
        negatives="; ".join(dict.fromkeys(repr(each) for stage in stages for each in _negatives(stage.objective))),
        seeds=recommender.seeds,
    )


def _negatives(part: object) -> list[Uniform | ByPopularity]:
    """Every draw of negatives inside a description."""
    if isinstance(part, Uniform | ByPopularity):
        return [part]
    if isinstance(part, tuple):
        return [found for each in part for found in _negatives(each)]
    if is_dataclass(part):
        return [found for each in fields(part) for found in _negatives(getattr(part, each.name))]
    return []


def _table(queries: Queries, values: dict[str, np.ndarray]) -> pa.Table:
    users = queries.dataset.vocab.users.cast(pa.large_string()).take(pa.array(queries.user))
    targets = queries.target - queries.stop
    return pa.table({"query": np.arange(len(queries)), "user": users, "targets": targets, **values})
