"""Comparing run folders: rows, groups of seeds, corrected tests, refusals, the command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from lmrs.cards import Cost, Protocol, Spent
from lmrs.cli.compare import compare as command
from lmrs.compare import compare
from lmrs.errors import CheckpointError, ContractError, UserError
from lmrs.statistics import holm, paired_interval, sign_flip_test

USERS = 300
CARD = Protocol(
    data="toy", data_hash="ab12", users=USERS, items=50, events=3_000, split="leave-one-out", queries=USERS, system="popularity"
)  # fmt: skip
FAST = {"resamples": 500}


def write(folder, values, *, users=None, card=CARD, cost=None, order=None, measure="NDCG@10"):
    place = folder / "evaluation"
    place.mkdir(parents=True)
    query = np.arange(len(values))
    users = [f"0{q}" for q in query] if users is None else users
    table = pa.table(
        {"query": query, "user": users, "targets": np.ones(len(values), np.int64), measure: values, "HR@10": values > 0}
    )
    table = table.set_column(4, "HR@10", table.column("HR@10").cast(pa.float64()))
    pq.write_table(table.take(np.arange(len(values)) if order is None else order), place / "queries.parquet")
    cost = cost or Cost(fit=Spent(2.0, 3.0, 10**6), parameters_total=7)
    report = {"measures": {measure: float(np.mean(values))}, "intervals": {}, "protocol": card.to_dict(), "cost": cost.to_dict()}
    (place / "report.json").write_text(json.dumps(report))
    return folder


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    base = rng.choice([0.0, 0.3, 0.5, 1.0], USERS, p=[0.7, 0.1, 0.1, 0.1])
    better = np.where(rng.random(USERS) < 0.2, 1.0, base)
    same = rng.permutation(base)
    return base, better, same


def test_rows_tests_and_correction(tmp_path, values):
    names = ["popularity", "sasrec", "markov"]
    cards = [replace(CARD, system=name) for name in names]
    shuffled = np.random.default_rng(1).permutation(USERS)  # the file's row order does not matter
    orders = [None, shuffled, None]
    runs = [write(tmp_path / n, v, card=c, order=o) for n, v, c, o in zip(names, values, cards, orders)]
    found = compare(runs, **FAST)
    assert [row.system for row in found.rows] == names
    assert (found.measure, found.reference, found.queries) == ("NDCG@10", 0, USERS)
    base, better, same = values
    p = [sign_flip_test(better, base, seed=0, resamples=500), sign_flip_test(same, base, seed=0, resamples=500)]
    assert [row.p for row in found.rows] == [None, *p]
    assert [row.p_holm for row in found.rows] == [None, *holm(np.array(p))]
    assert found.rows[1].p_holm < 0.01 < found.rows[2].p
    wanted = paired_interval(better, base, seed=0, resamples=500)
    got = found.rows[1].difference
    assert (got.mean, got.low, got.high) == pytest.approx((wanted.mean, wanted.low, wanted.high))
    assert found.rows[1].difference.low > 0
    assert [row.interval.mean for row in found.rows] == pytest.approx([v.mean() for v in values])
    assert found.rows[0].difference is None
    assert found.rows[0].fit_wall_s == 2.0
    best = compare(runs, against="best", **FAST)
    assert best.reference == 1
    assert best.rows[0].difference.mean == pytest.approx(base.mean() - better.mean())
    assert compare(runs, measure="hr@10", **FAST).rows[0].interval.mean == pytest.approx((base > 0).mean())


def test_runs_that_differ_in_seed_alone_form_one_row(tmp_path, values):
    base, better, same = values
    cards = [replace(CARD, system="sasrec", seeds=(seed,)) for seed in (0, 1, 0)] + [replace(CARD, seeds=(0,))]
    runs = [write(tmp_path / str(at), v, card=c) for at, (v, c) in enumerate(zip([better, same, better, base], cards))]
    found = compare([runs[3], runs[0], runs[1]], **FAST)
    assert [row.seeds for row in found.rows] == [(0,), (0, 1)]
    assert found.rows[1].folders == (str(runs[0]), str(runs[1]))
    mean = (better + same) / 2
    assert found.rows[1].p == sign_flip_test(mean, base, seed=0, resamples=500)
    assert found.rows[1].difference.mean == pytest.approx(mean.mean() - base.mean())
    wide, narrow = found.rows[1].difference, paired_interval(mean, base, seed=0, resamples=500)
    assert wide.high - wide.low > narrow.high - narrow.low  # the seeds differ, and that counts
    assert len(compare([runs[3], runs[0], runs[1]], group=False, **FAST).rows) == 3
    assert len(compare([runs[0], runs[1], runs[2]], **FAST).rows) == 2  # the same seed twice is another row
    with pytest.raises(UserError, match="at least two systems to compare, got 1 in 2 runs"):
        compare(runs[:2], **FAST)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_hash": "cd34"}, "needed runs measured by one protocol, got .*a and .*b with data_hash: ab12 against cd34"),
        ({"candidates": "99 uniform negatives"}, "candidates: all against 99 uniform negatives"),
        ({"split": "by time", "seen": "ranked too"}, "split: leave-one-out against by time; seen: left out against ranked too"),
        ({"part": "valid"}, "part: test against valid"),
    ],
)
def test_runs_with_another_protocol_are_refused_by_field(tmp_path, values, change, message):
    a, b = write(tmp_path / "a", values[0]), write(tmp_path / "b", values[1], card=replace(CARD, system="x", **change))
    with pytest.raises(ContractError, match=message):
        compare([a, b], **FAST)


def test_runs_with_other_queries_are_refused(tmp_path, values):
    a = write(tmp_path / "a", values[0])
    fewer = write(tmp_path / "b", values[1][:-1], card=replace(CARD, system="x"))
    with pytest.raises(ContractError, match=r"the same queries in every run, got 300 in .*a and 299 others in .*b"):
        compare([a, fewer], **FAST)
    others = write(tmp_path / "c", values[1], users=[str(q) for q in range(USERS)], card=replace(CARD, system="x"))
    with pytest.raises(ContractError, match="the same queries in every run"):
        compare([a, others], **FAST)


def test_folders_that_cannot_be_read_are_named(tmp_path, values):
    a = write(tmp_path / "a", values[0])
    b = write(tmp_path / "b", values[1], card=replace(CARD, system="x"))
    with pytest.raises(CheckpointError, match=r"needed an evaluated run in .*nowhere, got no such folder; run lmrs evaluate"):
        compare([a, tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="got no evaluation in it"):
        compare([a, tmp_path / "empty"])
    with pytest.raises(UserError, match=r"the measure NDCG@20 in .*a, got NDCG@10, HR@10; did you mean NDCG@10"):
        compare([a, b], measure="NDCG@20")
    with pytest.raises(UserError, match="needed a measure such as NDCG@10, got 'quality'"):
        compare([a, b], measure="quality")
    with pytest.raises(UserError, match="a reference, first or best, got 'last'"):
        compare([a, b], against="last")
    raw = (b / "evaluation" / "queries.parquet").read_bytes()
    for broken in (raw[:-20], b""):
        (b / "evaluation" / "queries.parquet").write_bytes(broken)
        with pytest.raises(CheckpointError, match=r"a readable evaluation in .*b"):
            compare([a, b])
    (b / "evaluation" / "queries.parquet").write_bytes(raw)
    for text in ("{", "[]", '{"measures": {}}', '{"protocol": {}, "cost": {}}'):
        (b / "evaluation" / "report.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"readable evaluation|protocol card"):
            compare([a, b])
    c = write(tmp_path / "c", np.where(np.arange(USERS) == 5, np.nan, values[1]), card=replace(CARD, system="x"))
    with pytest.raises(CheckpointError, match=r"finite NDCG@10 in .*c"):
        compare([a, c])


def test_the_command_prints_a_table_or_json(tmp_path, values):
    a = write(tmp_path / "a", values[0])
    b = write(tmp_path / "b", values[1], card=replace(CARD, system="sasrec"))
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(command, [str(a), str(b)])
    assert shown.exit_code == 0, shown.output
    for text in (
        "NDCG@10 on toy: leave-one-out, test part, 300 queries, candidates all",
        "popularity",
        "sasrec",
        "reference",
        "Holm",
    ):
        assert text in shown.output
    assert f"{values[1].mean():.4f}" in shown.output
    machine = CliRunner().invoke(command, [str(a), str(b), "--json", "--measure", "HR@10", "--against", "best"])
    found = json.loads(machine.output)
    assert (found["measure"], found["reference"], found["queries"]) == ("HR@10", "sasrec", USERS)
    assert found["rows"][1]["difference"] is None
    assert found["rows"][0]["p_holm"] == found["rows"][0]["p"] < 0.05
    assert found["rows"][0]["interval"]["mean"] == pytest.approx((values[0] > 0).mean())
    assert found["protocol"]["data_hash"] == "ab12"
    assert "system" not in found["protocol"]
    refused = CliRunner().invoke(command, [str(a), str(tmp_path / "nowhere")])
    assert isinstance(refused.exception, UserError)
