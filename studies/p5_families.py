"""P5's families of questions: all in one model against one model each, with and without a feature word, whole words on and off.

    python -m studies.p5_families --data-root FOLDER

FOLDER holds amazon-instruments-reviews and ml-100k. Reviews: the USERS users with most of them, leave-one-out; explanations and
features are found in the texts as in studies.explanation. A small T5 trained from scratch, with a tokeniser made of training
reviews; an arm of one family trains as long as that family's share of the arm of all. Then, on ml-100k, ways to index items as
OpenP5 compares them. One seed; no choice was made on validation or test. Paired by question: sign-flip test, Holm over all rows.
Result: studies/results/p5_families.{json,md}. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lmrs import __version__, sources, systems
from lmrs.dataset import Dataset
from lmrs.evaluate import evaluate
from lmrs.fit import Execution, Fitted, fit
from lmrs.models.answering import AnsweringNetwork
from lmrs.progress import Reporter
from lmrs.split import Split, fewer, leave_one_out
from lmrs.statistics import holm, paired_interval, sign_flip_test
from studies.explanation import explained

RESULTS = Path(__file__).parent / "results"
CPU = Execution(device="cpu")
USERS, QUERIES = 350, 400
ALL = ("sequential", "rating", "explanation")
EPOCHS = 8  # of a family alone
SMALL = {
    "dim": 64, "layers": 2, "heads": 4, "dropout": 0.0, "index": "collaborative", "branches": 10, "cluster": 50, "beams": 30,
    "max_len": 5, "longest": 20, "batch_size": 32, "lr": 1e-2, "patience": None,
}  # fmt: skip
ARMS = {
    "all": {"families": ALL},
    **{f"{name} alone": {"families": (name,), "asks": name} for name in reversed(ALL)},
    "all without whole words": {"families": ALL, "whole_words": False},
    "explanation alone, longer": {"families": ("explanation",), "asks": "explanation", "epochs": 4 * EPOCHS},
}
INDEXES = ("number", "collaborative", "sequential", "independent")
OF_INDEXES = {
    "dim": 64, "layers": 2, "heads": 4, "dropout": 0.0, "branches": 10, "cluster": 50, "beams": 30, "max_len": 5, "recent": 3,
    "batch_size": 64, "lr": 1e-2, "patience": None, "epochs": 6, "every": 6, "users": 500,
}  # fmt: skip


def active(data: Dataset) -> Dataset:
    """The users with most reviews, with their reviews."""
    chosen = np.sort(np.argsort(-data.lengths, kind="stable")[:USERS])
    size = data.lengths[chosen]
    offsets = np.concatenate([[0], np.cumsum(size)])
    place = np.arange(offsets[-1]) + np.repeat(data.offsets[chosen] - offsets[:-1], size)
    moved = np.full(data.n_events, -1, np.int64)
    moved[place] = np.arange(len(place))
    table = data.records["reviews"]
    table = table.filter(pa.array(moved[table.column("event").to_numpy()] >= 0))
    number = np.full(data.n_users, -1, np.int32)
    number[chosen] = np.arange(USERS)
    for column, values in (("event", moved[table.column("event").to_numpy()]), ("user", number[table.column("user").to_numpy()])):
        at = table.column_names.index(column)
        table = table.set_column(at, table.schema.field(at), pa.array(values, table.schema.field(at).type))
    assert data.rating is not None
    assert data.time is not None
    return replace(
        data,
        vocab=replace(data.vocab, users=data.vocab.users.take(pa.array(chosen))),
        item=data.item[place],
        offsets=offsets,
        time=data.time[place],
        rating=data.rating[place],
        users=None if data.users is None else data.users.take(pa.array(chosen)),
        records={"reviews": table},
    )


def tokeniser(split: Split, folder: Path) -> Path:
    """A byte-level tokeniser of training reviews, in the folder of a T5 that is never used."""
    if (folder / "model.safetensors").exists():
        return folder
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    table = split.dataset.records["reviews"]
    user, event = (table.column(name).to_numpy() for name in ("user", "event"))
    texts = table.filter(pa.array(event < split.train.stop[user])).column("text").to_pylist()
    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=["<pad>", "</s>"], initial_alphabet=letters, show_progress=False
    )
    engine.train_from_iterator([text for text in texts if text], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=engine, eos_token="</s>", pad_token="<pad>", model_max_length=512)
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(fast), d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, pad_token_id=0, eos_token_id=1)
    config.decoder_start_token_id = 0
    fast.save_pretrained(folder)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def judged(fitted: Fitted, split: Split, **options: object) -> dict[str, dict]:
    """What a model answers to each question that it learned: measures, and values by question for paired tests."""
    found: dict[str, dict] = {}
    families = options["families"]
    assert isinstance(families, tuple)
    asks = [ask for ask, family in (
        ("sequential", "sequential"), ("rating", "rating"), ("greedy rating", "rating"), ("explanation", "explanation"),
        ("feature", "explanation"),
    ) if family in families]  # fmt: skip
    network = fitted.scorer
    assert isinstance(network, AnsweringNetwork)
    for ask in asks:
        name = ask.removeprefix("greedy ")
        system = systems.p5(**{**options, "asks": name, "expected": ask == name})
        network.about = system.model  # type: ignore[assignment]
        told = evaluate(replace(fitted, system=system), split)
        each: dict = {"measures": told.measures}
        if name == "sequential":
            each["by question"] = {"NDCG@10": told.table.column("NDCG@10").to_pylist()}
        elif told.answers is not None and "predicted" in told.answers.column_names:
            off = told.answers.column("predicted").to_numpy() - told.answers.column("rating").to_numpy()
            each["by question"] = {"squared error": (off**2).tolist()}
        else:
            each["by question"] = {
                n: told.table.column(n).to_pylist() for n in ("ROUGE-1", "FMR") if n in told.table.column_names
            }
            assert told.answers is not None
            each["examples"] = told.answers.select(["generated", "reference"]).slice(0, 3).to_pylist()
        found[ask] = each
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies/p5_families"))
    a = parser.parse_args()
    found: dict[str, dict] = {}

    def once(name: str, make: Callable[[], dict]) -> None:
        kept = a.runs / f"{name.replace(' ', '-')}.json"
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(make()))
        found[name] = json.loads(kept.read_text())

    data = explained(active(sources.load(f"reviews:{a.data_root / 'amazon-instruments-reviews'}")))
    split = fewer(leave_one_out(data), valid=50)
    backbone = str(tokeniser(split, a.runs / "tokeniser").resolve())
    films = fewer(leave_one_out(sources.load(a.data_root / "ml-100k")), valid=50, test=QUERIES)
    for index in INDEXES:

        def indexed(index: str = index) -> dict:
            with Reporter() as reporter:
                fitted = fit(systems.p5(index=index, **OF_INDEXES), films, execution=CPU, reporter=reporter)
            told = evaluate(fitted, films)
            by = {"NDCG@10": told.table.column("NDCG@10").to_pylist()}
            return {"sequential": {"measures": told.measures, "by question": by}, "cpu_seconds": fitted.cpu_seconds}

        once(f"index {index}", indexed)
        write(found, split)
    for name, given in ARMS.items():

        def arm(given: dict = given) -> dict:
            options = {"asks": "sequential", "epochs": EPOCHS * len(given["families"]), **SMALL, **given, "backbone": backbone}
            options["every"] = options["epochs"]
            with Reporter() as reporter:
                fitted = fit(systems.p5(**options), split, execution=CPU, reporter=reporter)
            return {**judged(fitted, split, **options), "cpu_seconds": fitted.cpu_seconds, "loss": fitted.log[-1]["loss"]}

        once(name, arm)
        write(found, split)


TESTS = (  # arm, question, arm, question, what is compared
    ("all", "rating", "rating alone", "rating", "squared error"),
    ("all", "explanation", "explanation alone", "explanation", "ROUGE-1"),
    ("all", "sequential", "sequential alone", "sequential", "NDCG@10"),
    ("all", "feature", "all", "explanation", "ROUGE-1"),
    ("all", "feature", "all", "explanation", "FMR"),
    ("explanation alone, longer", "feature", "explanation alone, longer", "explanation", "ROUGE-1"),
    ("explanation alone, longer", "feature", "explanation alone, longer", "explanation", "FMR"),
    ("all", "rating", "all", "greedy rating", "squared error"),
    ("all", "sequential", "all without whole words", "sequential", "NDCG@10"),
    ("all", "rating", "all without whole words", "rating", "squared error"),
    ("all", "explanation", "all without whole words", "explanation", "ROUGE-1"),
    ("all", "feature", "all without whole words", "feature", "ROUGE-1"),
    ("index sequential", "sequential", "index number", "sequential", "NDCG@10"),
    ("index independent", "sequential", "index number", "sequential", "NDCG@10"),
    ("index collaborative", "sequential", "index number", "sequential", "NDCG@10"),
)


def write(found: dict[str, dict], split: Split) -> None:
    rows = []
    for one, asked, two, other, measure in TESTS:
        if {one, two} <= found.keys():
            x, y = (np.array(found[arm][ask]["by question"][measure]) for arm, ask in ((one, asked), (two, other)))
            gain = paired_interval(x, y, seed=0)
            p = sign_flip_test(x, y, seed=0)
            rows.append({"one": [one, asked], "two": [two, other], "measure": measure, "n": len(x), "p": p,
                         "difference": [gain.mean, gain.low, gain.high]})  # fmt: skip
    for row, p in zip(rows, holm(np.array([row["p"] for row in rows])) if rows else [], strict=True):
        row["p_holm"] = float(p)
    data, test = split.dataset, split.test
    assert data.rating is not None
    truth = data.rating[test.stop].astype(np.float64)
    mean = float(data.rating[split.train.events()[1]].mean())
    arms = {
        arm: {
            ask: {k: v for k, v in each.items() if k != "by question"} if isinstance(each, dict) else each
            for ask, each in told.items()
        }
        for arm, told in found.items()
    }
    out = {
        "data": f"amazon-instruments-reviews, {data.n_users} users, {data.n_events:,} events; ml-100k, {QUERIES} users asked",
        "options": SMALL, "epochs of a family": EPOCHS, "options of indexes": OF_INDEXES, "version": __version__,
        "mean rating": {"RMSE": float(np.sqrt(np.mean((truth - mean) ** 2))), "MAE": float(np.abs(truth - mean).mean())},
        "arms": arms, "tests": rows,
    }  # fmt: skip
    (RESULTS / "p5_families.json").write_text(json.dumps(out, indent=1) + "\n")
    names = ("NDCG@10", "HR@10", "RMSE", "MAE", "PPL", "BLEU-1", "BLEU-4", "ROUGE-1", "ROUGE-L", "USR", "FMR")
    lines = [
        "# P5: families of questions", "",
        f"{out['data']}; leave-one-out, one seed; a T5 of width 64 from scratch. The mean training rating has RMSE",
        f"{out['mean rating']['RMSE']:.3f} and MAE {out['mean rating']['MAE']:.3f}. Made by `python -m studies.p5_families`.", "",
        "| arm | asked | " + " | ".join(names) + " |", "|---|---|" + "---|" * len(names),
    ]  # fmt: skip
    for arm, told in arms.items():
        for ask, each in told.items():
            if isinstance(each, dict) and "measures" in each:
                cells = [f"{each['measures'][name]:.4f}" if name in each["measures"] else "-" for name in names]
                lines.append(f"| {arm} | {ask} | {' | '.join(cells)} |")
    lines += ["", "| one | two | of | n | one - two (95 %) | p (Holm) |", "|---|---|---|---|---|---|"]
    for row in rows:
        one, two = (f"{arm}: {ask}" for arm, ask in (row["one"], row["two"]))
        gain = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*row["difference"])
        lines.append(f"| {one} | {two} | {row['measure']} | {row['n']} | {gain} | {row['p_holm']:.4f} |")
    seconds = ", ".join(f"{arm} {told['cpu_seconds']:.0f}" for arm, told in arms.items())
    lines += ["", f"CPU seconds of a fit: {seconds}."]
    (RESULTS / "p5_families.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
