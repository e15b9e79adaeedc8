"""The command line does what it says: in-process, on a small CSV file with odd column names."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lmrs.cli import run
from lmrs.progress import Reporter
from lmrs.recommender import Recommender
from lmrs.testing import tiny

DAY = 86_400
TINY = ["--set", "dim=8", "--set", "layers=1", "--set", "max_len=6", "--set", "epochs=2"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Purchases under names that nobody guesses, with a catalogue."""
    data, lines = tiny.dataset(), ["kunde,produkt,wann"]
    for user in range(data.n_users):
        for place in range(data.offsets[user], data.offsets[user + 1]):
            lines.append(f"c{user},p{data.item[place]},{20_000 * DAY + place * DAY}")
    folder = tmp_path / "shop"
    folder.mkdir()
    (folder / "interactions.csv").write_text("\n".join(lines) + "\n")
    rows = [f'p{n},"Product {n}, large"' for n in range(13)]
    (folder / "items.csv").write_text("\n".join(["item_id,title", *rows]) + "\n")
    return folder


def columns() -> list[str]:
    return ["--column", "user=kunde", "--column", "item=produkt", "--column", "time=wann"]


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path, code: int = 0) -> str:
    capsys.readouterr()
    status = run([str(each) for each in arguments])
    told = capsys.readouterr()
    assert status == code, told.err
    return told.out if code == 0 else told.err


def fit(capsys: pytest.CaptureFixture[str], shop: Path, out: str, system: str = "markov", *more: str) -> dict[str, Any]:
    return json.loads(call(capsys, "fit", system, "--data", shop, *columns(), "--out", out, "--quiet", "--json", *more))


def test_fit_leaves_a_whole_run_folder(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    found = fit(capsys, shop, "runs/a", "sasrec", *TINY, "--seed", "4")
    run_folder = Path("runs/a")
    assert {each.name for each in run_folder.iterdir()} >= {
        "run.json",
        "metrics.jsonl",
        "costs.json",
        "checkpoints",
        "model",
        "evaluation",
    }
    record = json.loads((run_folder / "run.json").read_text())
    assert (record["system"], record["seed"]) == ("sasrec", 4)
    assert record["settings"]["dim"] == 8
    assert record["settings"]["lr"] == 1e-3  # defaults are written out
    assert record["data"]["source"] == str(shop)
    assert record["data"]["columns"] == {"user": "kunde", "item": "produkt", "time": "wann"}
    assert set(record["versions"]) == {"lmrs", "torch", "numpy", "python"}
    report = json.loads((run_folder / "evaluation" / "report.json").read_text())
    assert report == {key: value for key, value in found.items() if key != "run"}
    assert set(report["measures"]) == {
        "HR@10", "NDCG@10", "MRR@10", "Recall@20", "AUC", "Coverage@10", "Novelty@10", "PopularityBias@10"
    }  # fmt: skip
    for name, (low, high) in report["intervals"].items():
        assert low <= report["measures"][name] <= high
    assert report["protocol"]["seeds"] == [4]
    assert report["protocol"]["system"] == "sasrec"
    cost = report["cost"]
    assert cost["fit"]["wall_s"] > 0
    assert cost["evaluate"]["wall_s"] > 0
    assert cost["parameters_total"] == cost["parameters_trained"] > 0
    assert cost["bytes_on_disk"] == sum(each.stat().st_size for each in (run_folder / "model").iterdir())
    assert cost["threads"] >= 1
    assert cost["probes"]["gemm_fp32_gflops"] > 0
    table = pq.read_table(run_folder / "evaluation" / "queries.parquet")
    assert table.num_rows == report["protocol"]["queries"]
    assert abs(sum(table["NDCG@10"].to_pylist()) / table.num_rows - report["measures"]["NDCG@10"]) < 1e-12


def test_a_fit_finds_its_threads_and_says_so(
    capsys: pytest.CaptureFixture[str], shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(sys.modules["lmrs.fit"], "fewest_threads", lambda seconds, **about: (1, {2: 0.864, 4: 1.0}))
    told = call(capsys, "fit", "sasrec", "--data", shop, *columns(), *TINY, "--out", "run", "--quiet")
    assert "; 1 thread (2 threads: 0.86x, 4 threads: 1.00x) on cpu" in " ".join(told.split())
    report = json.loads(Path("run/evaluation/report.json").read_text())
    assert (report["cost"]["threads"], report["cost"]["probed"]["threads"]) == (1, {"2": 0.864, "4": 1.0})
    assert json.loads(Path("run/run.json").read_text())["execution"]["threads"] == "auto"
    cost = fit(capsys, shop, "given", "sasrec", *TINY, "--threads", "2")["cost"]
    assert (cost["threads"], cost["probed"].get("threads")) == (2, None)
    assert "compile off (not tried in so short a run)" in " ".join(told.split())
    assert cost["compile"] == "untried"
    assert fit(capsys, shop, "plain", "sasrec", *TINY, "--compile", "off")["cost"]["compile"] == "off"


def test_the_cost_line_tells_what_was_chosen_and_what_else_was_tried() -> None:
    from lmrs.cards import Cost
    from lmrs.cli import show

    assert show.cost(Cost(threads=3)).endswith("; 3 threads on cpu")
    assert show.cost(Cost(precision="bf16-loss")).endswith("; 1 thread on cpu, bf16-loss")
    probed = {"threads": {"1": 0.4}, "precision": {"bf16-loss": 1.204}}
    assert show.cost(Cost(threads=2, probed=probed)).endswith(
        "; 2 threads (1 thread: 0.40x) on cpu, fp32 (products in bf16-loss: 1.20x)"
    )
    probed = {"softmax": {"torch": 0.7412}}
    assert show.cost(Cost(kernels=["softmax"], probed=probed)).endswith("; 1 thread on cpu, softmax by native (torch: 0.74x)")
    assert show.cost(Cost(kernels=["softmax"])).endswith("; 1 thread on cpu, softmax by native")
    slow = {"attention": {"native": 1.041}}
    told = "; 1 thread on cpu, softmax by native (torch: 0.74x), attention by torch (native: 1.04x), ranking by native"
    assert show.cost(Cost(kernels=["softmax", "ranking"], probed=probed | slow)).endswith(told)
    assert show.cost(Cost(probed={"compile": {"on": 0.754}})).endswith("; 1 thread on cpu, compile off (on: 0.75x)")
    assert show.cost(Cost(compile="on", probed={"compile": {"off": 0.8}})).endswith("; 1 thread on cpu, compile on (off: 0.80x)")
    assert show.cost(Cost(compile="on")).endswith("; 1 thread on cpu, compile on")
    assert show.cost(Cost(compile="untried")).endswith("; 1 thread on cpu, compile off (not tried in so short a run)")
    assert show.cost(Cost(compile="unable")).endswith("; 1 thread on cpu, compile off (torch cannot compile here)")


def test_evaluate_repeats_the_numbers(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    first = fit(capsys, shop, "run")
    again = json.loads(call(capsys, "evaluate", "run", "--json", "--quiet"))
    assert again["measures"] == first["measures"]
    assert again["intervals"] == first["intervals"]
    assert again["protocol"] == first["protocol"]
    assert again["cost"]["fit"] == first["cost"]["fit"]
    valid = json.loads(call(capsys, "evaluate", "run", "--part", "valid", "--json", "--quiet", "--measure", "ndcg@5"))
    assert set(valid["measures"]) == {"NDCG@5"}
    assert valid["protocol"]["part"] == "valid"
    assert json.loads(Path("run/evaluation/report.json").read_text())["measures"] == first["measures"]  # not overwritten


def test_sampled_measures_are_labelled(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    first = fit(capsys, shop, "run")["measures"]
    found = json.loads(call(capsys, "evaluate", "run", "--json", "--quiet", "--measure", "NDCG@10/3neg", "--measure", "NDCG@10"))
    assert list(found["measures"]) == [*first, "NDCG@10/3neg"]  # asking for one more loses none
    assert found["measures"].items() > first.items()
    assert json.loads(Path("run/evaluation/report.json").read_text())["measures"] == found["measures"]
    assert found["measures"]["NDCG@10/3neg"] > found["measures"]["NDCG@10"]


def test_evaluate_on_other_data_matches_ids(capsys: pytest.CaptureFixture[str], shop: Path, tmp_path: Path) -> None:
    fit(capsys, shop, "run")
    before = Path("run/evaluation/report.json").read_bytes()
    other = tmp_path / "other.csv"
    lines = (
        (shop / "interactions.csv").read_text().replace("kunde,produkt,wann", "user,item,time").replace(",p3,", ",unheard-of,")
    )
    other.write_text(lines)
    found = json.loads(call(capsys, "evaluate", "run", "--data", other, "--json", "--quiet", "--out", "elsewhere"))
    assert found["facts"]["unknown_items"] == 1
    assert found["facts"]["unknown_history_events"] > 0
    assert found["protocol"]["data"] == "other"
    assert Path("run/evaluation/report.json").read_bytes() == before
    assert json.loads(Path("elsewhere/evaluation/report.json").read_text())["measures"] == found["measures"]


def test_recommend(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    fit(capsys, shop, "run")
    found = json.loads(call(capsys, "recommend", "run", "--history", "p1, p2,nonsense", "-k", "3", "--exclude", "p4", "--json"))
    direct = Recommender.load("run/model").recommend(["p1", "p2", "nonsense"], k=3, exclude=["p4"])
    assert [each["id"] for each in found["items"]] == list(direct.ids)
    assert found["items"][0]["title"] == f"Product {direct.ids[0][1:]}, large"
    assert found["unknown"] == ["nonsense"]
    same = json.loads(
        call(capsys, "recommend", "run/model", "--item", "p1", "--item", "p2", "-k", "3", "--exclude", "p4", "--json")
    )
    assert same["items"] == found["items"]
    shown = call(capsys, "recommend", "run", "--history", "p1")
    assert "Product" in shown
    run(["recommend", "run", "--history", "x", "-k", "1"])
    told = capsys.readouterr().err
    assert "unknown and ignored: x" in told
    assert "nothing in the history is known: this is training popularity" in told


def test_recommend_takes_titles_and_users(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    fit(capsys, shop, "run")
    by_title = json.loads(call(capsys, "recommend", "run", "--item", "product 2, LARGE", "--json"))
    assert by_title["history"] == ["p2"]
    assert by_title["notes"] == ["'product 2, LARGE' is read as the title of item p2, 'Product 2, large'"]
    misspelt = json.loads(call(capsys, "recommend", "run", "--item", "Prodct 2, large", "--json"))
    assert misspelt["notes"][0].startswith("no item is called 'Prodct 2, large': did you mean 'Product 2, large'")
    assert misspelt["history"] != ["p2"]
    by_user = json.loads(call(capsys, "recommend", "run", "--user", "c4", "--json"))
    data = tiny.dataset()
    assert by_user["history"] == [f"p{item}" for item in data.history(4)]


def test_splits_and_cores(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    by_time = fit(capsys, shop, "t", "popularity", "--split", "time", "--valid-from", "0.6", "--test-from", "0.8")
    assert by_time["protocol"]["split"] == "global time"
    nexts = fit(capsys, shop, "n", "popularity", "--split", "time", "--valid-from", "0.6", "--test-from", "0.8", "--next-only")
    assert nexts["protocol"]["queries"] == by_time["protocol"]["queries"]
    dated = fit(capsys, shop, "d", "popularity", "--split", "time", "--valid-from", "2024-12-01", "--test-from", "2025-01-15")
    assert dated["protocol"]["split"] == "global time"
    by_user = fit(capsys, shop, "u", "popularity", "--split", "user", "--valid-from", "0.6", "--test-from", "0.8")
    assert by_user["protocol"]["split"] == "by user"
    core = fit(capsys, shop, "c", "popularity", "--core", "4")
    assert core["protocol"]["filter"] == "4-4-core"
    assert core["protocol"]["users"] < by_time["protocol"]["users"]


def test_compare_reads_what_fit_wrote(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    fit(capsys, shop, "a")
    fit(capsys, shop, "b", "popularity")
    found = json.loads(call(capsys, "compare", "a", "b", "--json"))
    assert [row["system"] for row in found["rows"]] == ["markov", "popularity"]


def test_what_a_person_sees(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    shown = call(capsys, "fit", "markov", "--data", shop, *columns(), "--out", "run")
    for text in (
        "markov on shop, leave-one-out, test part",
        "all 13 items ranked",
        "NDCG@10",
        "fit 0.",
        "next: lmrs recommend run",
    ):
        assert text in " ".join(shown.split())
    assert "95 % interval" in call(capsys, "evaluate", "run", "--quiet")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_gone_on_is_the_same_as_never_stopped(
    capsys: pytest.CaptureFixture[str], shop: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    arguments = ["fit", "sasrec", "--data", str(shop), *columns(), *TINY, "--set", "batch_size=4", "--quiet"]
    call(capsys, *arguments, "--out", "whole")
    steps = iter(range(100))

    def step(self: Reporter, note: str = "", *, by: int = 1) -> None:
        if next(steps) == 4:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "step", step)
        told = call(capsys, *arguments, "--out", "cut", code=128 + number)
    assert told.count("\n") == 1
    assert "state saved in cut; go on with --resume" in told
    call(capsys, *arguments, "--out", "cut", "--resume")
    for file in ("metrics.jsonl", "model/tensors.safetensors"):
        assert Path("whole", file).read_bytes() == Path("cut", file).read_bytes()
    call(capsys, *arguments, "--out", "cut", "--resume")  # finished: nothing is trained again
    assert Path("whole/metrics.jsonl").read_bytes() == Path("cut/metrics.jsonl").read_bytes()


def test_systems(capsys: pytest.CaptureFixture[str]) -> None:
    from lmrs.systems import CATALOGUE

    listed = json.loads(call(capsys, "systems", "--json"))
    assert [each["name"] for each in listed] == list(CATALOGUE)
    by_name = {each["name"]: each for each in listed}
    assert by_name["s3rec"]["cell"] == "fine-tune whole"
    assert by_name["s3rec"]["survey"] == "fine-tune extra part"
    assert by_name["s3rec"]["data"] == ["item sequences", "item attributes"]
    assert by_name["transformers4rec"]["objectives"] == ["Cloze", "NextItem", "Permuted", "Replaced"]
    assert by_name["ease"]["cell"] == "control"
    shown = call(capsys, "systems")
    assert all(name in shown for name in CATALOGUE)
    one = call(capsys, "systems", "bert4rec")
    assert "hide=0.2" in one
    assert "Sun et al. (2019)" in one
    assert "differs from the paper: masks are drawn anew" in one


def test_an_own_system(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    Path("mine.py").write_text(
        "from lmrs.systems import sasrec\n\ndef small(*, dim: int = 4, epochs: int = 1):\n"
        "    return sasrec(dim=dim, layers=1, heads=1, max_len=4, epochs=epochs)\n"
    )
    found = fit(capsys, shop, "own", "./mine.py:small", "--set", "dim=6")
    assert found["protocol"]["system"] == "small"
    assert found["protocol"]["settings"] == {"dim": 6, "epochs": 1}
    assert json.loads(Path("own/run.json").read_text())["system"] == f"{Path.cwd()}/mine.py:small"
    assert json.loads(call(capsys, "evaluate", "own", "--json", "--quiet"))["measures"] == found["measures"]


def test_data_is_plugged_in(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    found = json.loads(call(capsys, "data", "inspect", shop, *columns(), "--json"))
    assert found["users"] == 24


def test_histories_by_title_forgive_case_and_commas_but_do_not_guess(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    fit(capsys, shop, "run")
    found = json.loads(call(capsys, "recommend", "run", "--history", "product 2 large; p3; Product 99", "--json"))
    assert found["history"] == ["p2", "p3", "Product 99"]
    assert found["unknown"] == ["Product 99"]
    (shop / "items.csv").write_text("item_id,title\n" + "".join(f"p{n},Same\n" for n in range(13)))
    fit(capsys, shop, "twins")
    told = json.loads(call(capsys, "recommend", "twins", "--history", "same", "--json"))
    assert told["unknown"] == ["same"]
    assert len(told["notes"]) == 1
    assert told["notes"][0].startswith("13 items have the title 'same': give the id (p")


ZERO = ["--set", "backbone=tiny-causal", "--set", "max_len=2"]


def test_a_language_model_recommends_without_training(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    report = fit(capsys, shop, "talk", "zero-shot", *ZERO, "--queries", "5")
    assert list(report["measures"]) == ["HR@10/99neg", "NDCG@10/99neg"]  # scored item by item: among drawn ones, and labelled
    assert report["protocol"]["queries"] == 5
    assert report["cost"]["parameters_trained"] == 0
    assert Path("talk/model/tensors.safetensors").stat().st_size < 100  # a frozen backbone is not written again
    found = json.loads(call(capsys, "recommend", "talk", "--history", "Product 2, large; p3", "-k", "3", "--json"))
    assert found["history"] == ["p2", "p3"]
    assert len(found["items"]) == 3


def test_prompt_show_tells_what_the_model_reads(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    (shop / "items.csv").write_text("item_id,title\n" + "".join(f"p{n},<|begin|>{{history}} {n}\n" for n in range(13)))
    fit(capsys, shop, "talk", "zero-shot", *ZERO, "--queries", "2")
    told = json.loads(call(capsys, "prompt", "show", "talk", "--history", "p1,p2,p3", "--json"))
    assert told["prompt"] == "[<|begin|>]Movies like: «<|begin|>{history} 2», «<|begin|>{history} 3»,"
    assert told["ids"].count(told["ids"][0]) == 1  # the hostile titles did not become the mark they spell
    assert told["notes"] == ["1 older items are not read (max_len 2)"]
    fit(capsys, shop, "plain")
    assert "needed a run of a language model" in call(capsys, "prompt", "show", "plain", "--history", "p1", code=1)
    assert "such as zero-shot" in call(capsys, "prompt", "show", "plain", "--history", "p1", code=1)
    told = call(capsys, "fit", "zero-shot", "--data", str(shop), "--out", "x", "--set", "backbone=minilm", "--quiet", code=1)
    assert "needed a backbone of family causal" in told
    assert "smollm2" in told


def test_the_protocol_line_says_if_only_drawn_items_were_ranked(capsys: pytest.CaptureFixture[str], shop: Path) -> None:
    arguments = ["fit", "markov", "--data", shop, *columns(), "--quiet"]
    drawn = " ".join(call(capsys, *arguments, "--out", "a", "--measure", "NDCG@10/3neg").split())
    assert "only drawn items (/3neg) ranked" in drawn
    both = " ".join(call(capsys, *arguments, "--out", "b", "--measure", "NDCG@10/3neg", "--measure", "NDCG@10").split())
    assert "all 13 items ranked" in both
