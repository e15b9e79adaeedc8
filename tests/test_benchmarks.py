"""The arithmetic of the benchmarks and their page; nothing is timed here."""

import json
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import beside, page, peers, quality, sampled
from benchmarks.rate import STEPS, operations, tables

SAYS = "import json, sys; print('noise'); print('RESULT ' + json.dumps({'rate': float(sys.argv[1]), 'peak_mib': 5}))"


def test_a_side_is_read_from_its_last_line_and_a_failing_one_says_why() -> None:
    found = beside.call([sys.executable, "-c", SAYS, "3"])
    process = found.pop("process")
    assert found == {"rate": 3.0, "peak_mib": 5, "asked": f"{SAYS} 3"}
    assert process["wall"] > 0
    assert process["processor"] > 0
    assert beside.call([sys.executable, "-c", "raise SystemExit('no such thing')"]) == {"failed": "no such thing"}
    assert "took longer" in beside.call([sys.executable, "-c", "import time; time.sleep(60)"], limit=0.2)["failed"]
    assert "install rectools" in beside.call(["/nowhere/rectools/bin/python", "x.py"])["failed"]


def test_what_a_side_is_asked_for_is_told_without_paths() -> None:
    given = json.dumps({"task": "train", "data": "folder/x.npz", "steps": 3})
    assert beside.asked(["/bin/python", "/there/with_replay.py", given]) == "task=train steps=3"
    assert beside.asked(["/bin/python", "-m", "benchmarks.rate", "--side", "lmrs", given]) == "lmrs task=train steps=3"


def test_rounds_alternate_and_a_side_that_fails_is_not_asked_again() -> None:
    kept = []
    sides = {"lmrs": [sys.executable, "-c", SAYS, "6"], "broken": [sys.executable, "-c", "raise SystemExit(1)"]}
    found = beside.in_turn(
        sides, rounds=2, after=lambda reports: kept.append({name: len(each) for name, each in reports.items()})
    )
    assert [len(found["lmrs"]), len(found["broken"])] == [2, 1]
    assert kept == [{"lmrs": 1, "broken": 1}, {"lmrs": 2, "broken": 1}]


def test_the_time_limit_of_a_side_is_given() -> None:
    sides = {"slow": [sys.executable, "-c", "import time; time.sleep(60)"]}
    assert "longer than 0 s" in beside.in_turn(sides, rounds=1, limit=0.2)["slow"][0]["failed"]


def test_sampled_and_full_softmax_are_compared_in_tables_of_their_own() -> None:
    chosen = {end: (ours, sides) for end, (ours, _, sides) in tables(list(STEPS)).items()}
    assert all(ours in sides for ours, sides in chosen.values())
    assert chosen["-sampled"][1] == ["lmrs", "lmrs sampled", "rectools sampled"]
    assert not any("sampled" in side or "bf16" in side for side in chosen[""][1])
    assert set(chosen["-bf16"][1]) - set(chosen[""][1]) == {"lmrs bf16-loss", "replay bf16"}
    assert tables(["lmrs", "lmrs sampled", "rectools sampled"])[""][2] == ["lmrs"]  # one side: no table


@pytest.mark.parametrize("full", [False, True])
def test_states_for_the_sampled_softmax_have_the_targets_of_training_rows(full: bool, tmp_path: Path) -> None:
    sizes = np.array([3, 4, 80])  # the last two events of a user are not for training
    offsets = np.concatenate([[0], np.cumsum(np.tile(sizes, 60))])
    np.savez(tmp_path / "in.npz", items=np.arange(offsets[-1]) % 9000, offsets=offsets, n_items=9000)
    facts = sampled.make(tmp_path / "in.npz", tmp_path / "out.npz", full=full)
    made = np.load(tmp_path / "out.npz")
    target = made["target"]
    assert facts == {"places": 128 * 50, "targets": (target >= 0).sum(), "items": 9000}
    assert not np.isin(made["no_targets"], target).any()
    if full:
        assert (target >= 0).all()
        return
    counts = (target >= 0).sum(1)
    assert set(counts) == {0, 1, 50}  # of 1, 2 and 78 training events
    assert (target[counts == 1][:, :-1] == -1).all()  # padded at the left
    assert (np.diff(target[counts == 50]) % 9000 == 1).all()  # in their order
    last = [own[-1] for own in target[counts == 50]]
    ends = (offsets[1:] - 3) % 9000
    assert np.isin(last, ends[2::3]).all()


@pytest.mark.parametrize("kind", ["lmrs", "plain"])
def test_the_sampled_loss_is_compared_with_its_formula(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 20, (4, 5))
    target[0, :3] = -1
    data = {"states": rng.standard_normal((4, 5, 8), np.float32), "table": rng.standard_normal((30, 8), np.float32)}
    np.savez(tmp_path / "in.npz", target=target, negatives=np.arange(10), no_targets=np.array([20, 22, 25, 25]), **data)
    monkeypatch.setattr(sampled, "STEPS", {kind: 1})
    found = sampled.side(kind, {"data": str(tmp_path / "in.npz")})
    real = target >= 0
    scores = data["states"][real].astype(np.float64) @ data["table"].T
    own = scores[np.arange(real.sum()), target[real]]
    mass = np.exp(own) + np.exp(scores[:, [20, 22, 25, 25]]).sum(1)
    assert found["loss"] == pytest.approx((np.log(mass) - own).mean(), rel=1e-6)
    assert found["cpu_seconds"] > 0


def test_ratios_are_taken_round_by_round_and_say_how_much_better_ours_is() -> None:
    ours = [{"rate": 10.0, "peak_mib": 1}, {"rate": 30.0, "peak_mib": 2}, {"rate": 20.0, "peak_mib": 1}]
    theirs = [{"rate": 5.0, "peak_mib": 9}, {"rate": 10.0, "peak_mib": 8}, {"rate": 20.0, "peak_mib": 7}]
    found = beside.summary({"lmrs": ours, "peer": theirs, "gone": [{"failed": "why"}]}, lambda report: report["rate"])
    assert found["lmrs"]["value"] == [20, 10, 30]
    assert found["peer"]["ratio"] == [2, 1, 3]  # of 2, 3 and 1; not 20 / 10
    assert found["peer"]["peak_mib"] == 9
    assert "wall" not in found["peer"]
    for each in (ours, theirs):
        for at, report in enumerate(each):
            report |= {"process": {"wall": 2.0 + at, "processor": 1.0 + at}, "asked": "steps=3"}
    told = beside.summary({"lmrs": ours, "peer": theirs}, lambda report: report["rate"])["peer"]
    assert (told["wall"], told["processor"], told["asked"]) == ([3, 2, 4], [2, 1, 3], "steps=3")
    assert found["gone"] == {"missing": "why"}
    seconds = beside.summary({"lmrs": ours, "peer": theirs}, lambda report: report["rate"], higher=False)
    assert seconds["peer"]["ratio"] == pytest.approx([statistics.median([0.5, 1 / 3, 1]), 1 / 3, 1], rel=1e-3)


def test_operations_of_a_target_are_those_of_the_products() -> None:
    # One layer of width 2 that attends to one position: q, k, v, out, up, down are 2 x 2 each, scores and mix 2 each; V = 3.
    forward = 6 * (2 * 2) + 2 + 2 + 3 * 2
    assert operations(items=3, width=2, layers=1, attended=1) == 3 * 2 * forward


def test_the_page_shows_every_result_and_what_is_missing() -> None:
    sides = {"lmrs": {"value": [2000, 1900, 2100], "peak_mib": 400, "versions": {"lmrs": "0.1.0"}}}
    sides["rectools"] = {"missing": "not installed: python -m benchmarks.peers install rectools"}
    about = {"date": "2026-01-01", "processor": "a processor"}
    report = {"what": "users a second", "data": {"users": 10}, "rounds": 3, "sides": sides, "about": about}
    shown = page.page({"ranking-here": report})
    assert "## ranking-here" in shown
    assert "| lmrs 0.1.0 | 2,000 [1,900, 2,100] | - | 400 |" in shown
    assert "| rectools | missing: not installed" in shown
    sides["lmrs"] |= {"wall": [3, 2, 4], "processor": [2.5, 1, 3], "asked": "steps=3"}
    shown = page.page({"ranking-here": report})
    assert "| lmrs 0.1.0 | 2,000 [1,900, 2,100] | - | 400 | 3 [2, 4], 2.5 [1, 3] |" in shown
    assert "lmrs: steps=3" in shown
    assert "torchrun" in shown.split("## Not measured")[1]


def test_the_committed_page_is_made_of_the_committed_results() -> None:
    results = {path.stem: json.loads(path.read_text()) for path in sorted(beside.RESULTS.glob("*.json"))}
    assert page.PAGE.read_text() == page.page(results)


def test_every_peer_has_a_worker_and_a_place_outside_the_project() -> None:
    root = Path(__file__).parents[1]
    for name in peers.PEERS:
        assert (peers.HERE / f"with_{name}.py").is_file()
        assert root not in peers.python(name).parents


def test_a_curve_is_a_table_with_its_power_and_a_picture_with_every_point() -> None:
    points = [
        {"at": at, "train": [at / 10] * 3, "rank": [5.0] * 3, "memory": [at / 100] * 3, "expected": at / 10}
        for at in (1000, 10000)
    ]
    about = {"date": "2026-01-01", "processor": "a processor"}
    shown = page.page({"growth-items": {"what": "growth with items", "rounds": 1, "curve": points, "about": about}})
    assert "| grows with the power | 1.00 | 1.00 | 0.00 | 1.00 |" in shown
    assert "![time and memory against items](growth-items.svg)" in shown
    picture = page.drawn("growth-items", points)
    assert picture.count("<circle") == 4 * 2
    assert 'cx="70.0" cy="190.0"' in picture  # 10 MiB at 1,000 items: a third of the way from 1 up to 1,000


def test_time_to_quality_is_that_to_the_best_of_a_peers_last_validations() -> None:
    mine = {"curves": [[[1.0, 0.05], [2.0, 0.11], [3.0, 0.2]]], "versions": {}}
    peer = {"curve": [[5.0, 0.3], [10.0, 0.1], [15.0, 0.08], [20.0, 0.09]], "versions": {"peer": "1"}}
    far = {"curve": [[5.0, 0.4]], "versions": {}}
    found = quality.rows({"lmrs": [mine], "peer": [peer], "far": [far], "gone": [{"failed": "why"}]})
    assert found["peer"]["quality"] == [0.1, 0.1, 0.1]  # not the .3 it had at first and lost
    assert found["peer"]["lmrs_seconds"] == [2, 2, 2]
    assert found["peer"]["ratio"] == [2.5, 2.5, 2.5]  # it first had .1 after 5 seconds, on its way
    assert "ratio" not in found["far"]
    assert found["gone"] == {"missing": "why"}
    about = {"date": "2026-01-01", "processor": "a processor"}
    shown = page.page({"quality-here": {"what": "seconds", "rounds": 1, "reached": found, "curves": {}, "about": about}})
    assert "| peer | 0.1 [0.1, 0.1] | 5 [5, 5] | 2 [2, 2] (lmrs; 1 of 1 runs) | 2.5 [2.5, 2.5] | 0.2 [0.2, 0.2] |" in shown
    assert "never reached" in shown


def test_of_several_seeds_the_median_counts_and_one_that_fails_counts_as_never() -> None:
    plain = {"curves": [[[4.0, 0.1]]], "versions": {}}
    seeds = [[[1.0, 0.1]], [[2.0, 0.2]], [[9.0, 0.05]]]
    peer = {"curve": [[6.0, 0.1]], "versions": {"peer": "1"}}
    found = quality.rows({"lmrs": [plain], "lmrs averaged": [{"curves": seeds, "versions": {}}], "peer": [peer]})["peer"]
    assert found["lmrs_side"] == "lmrs averaged"  # 2 in the middle, not 1 at best nor 4
    assert (found["lmrs_seconds"], found["reached_by"]) == ([2, 1, None], [2, 3])
    assert found["ratio"] == [3, 0, 6]
    assert found["lmrs_best"] == [0.1, 0.05, 0.2]
    worse = {"curves": [*seeds[:1], *[[[9.0, 0.05]]] * 2], "versions": {}}
    assert quality.rows({"lmrs": [plain], "lmrs averaged": [worse], "peer": [peer]})["peer"]["lmrs_side"] == "lmrs"
    assert "ratio" not in quality.rows({"lmrs averaged": [worse], "peer": [peer]})["peer"]
    about = {"date": "2026-01-01", "processor": "a processor"}
    shown = page.page({"quality-x": {"what": "s", "rounds": 1, "reached": {"peer": found}, "about": about}})
    assert "| 2 [1, never] (lmrs averaged; 2 of 3 runs) | 3 [0, 6] |" in shown


def test_curves_of_several_seeds_are_kept_by_seed() -> None:
    mine = {"curves": [[[1.0, 0.1]], [[2.0, 0.2]]], "seeds": [7, 8]}
    reports = {"lmrs averaged": [mine], "peer": [{"curve": [[3.0, 0.3]]}], "late": []}
    wanted = {"lmrs averaged, seed 7": [[1.0, 0.1]], "lmrs averaged, seed 8": [[2.0, 0.2]], "peer": [[3.0, 0.3]]}
    assert quality.kept(reports) == wanted
