"""Explanations: what PETER's parts and PEPLER's stages are worth, against sentences that need no model.

    python -m studies.explanation --data-root FOLDER

FOLDER holds amazon-instruments-reviews. It names no features, so they are found here: the explanation of a review is its first
sentence of 4 to 20 words that holds one of FEATURES, and its feature is that word; those of the ACTIVE users with most of them
are used, so that it fits the time. Split: by review, 8:1:1.

PEPLER's backbone is a small causal model of 3 layers and width 96 that is pre-trained in stage zero, on the whole texts of
training reviews alone (one pass; a real GPT-2 does not fit the time). Nothing is chosen on the test part: both systems stop by
validation perplexity, and the rate of each of PEPLER's arms is taken from RATES by it, too. Differences are paired by review:
log p(explanation) a token, ROUGE-1 and FMR; sign-flip test, with Holm's correction over all rows of the table. Result:
studies/results/explanation.{json,md}. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from lmrs import __version__, sources
from lmrs.dataset import Dataset
from lmrs.evaluate import evaluate
from lmrs.fit import Execution, Fitted, fit
from lmrs.measures import BLEU, DIV, FCR, FMR, ROUGE, USR, Distinct, Texts
from lmrs.measures.words import WORDS
from lmrs.models.explainer import Explainer
from lmrs.progress import Reporter
from lmrs.split import Split, by_review
from lmrs.statistics import holm, paired_interval, sign_flip_test
from lmrs.system import System
from lmrs.systems.pepler import pepler
from lmrs.systems.peter import peter

RESULTS = Path(__file__).parent / "results"
FEATURES = (
    "sound", "tone", "quality", "price", "strings", "string", "pedal", "pedals", "strap", "picks", "pick", "tuner", "cable",
    "cables", "case", "stand", "capo", "mic", "microphone", "amp", "volume", "noise", "battery", "power", "switch", "size",
    "weight", "plastic", "metal", "design", "finish", "neck", "tuning", "bass", "gain", "distortion", "overdrive", "knobs",
    "effects", "clip", "bag", "box", "color", "value", "build", "acoustic", "electric", "feel", "fit",
)  # fmt: skip
LONGEST = 20
ACTIVE = 350
RATES = (3e-4, 2e-3)
CPU = Execution(device="cpu")
SMALL = {"dim": 96, "words": 2000, "longest": LONGEST, "epochs": 8, "patience": 1, "batch_size": 32, "lr": 2e-3}
TESTS = (
    ("PETER", "PETER without context", "the context loss"),
    ("PETER+", "PETER", "the feature is given"),
    ("PEPLER sequential", "PEPLER prompt only", "the second stage"),
    ("PEPLER sequential", "PEPLER both at once", "the first stage"),
    ("PEPLER + MF", "PEPLER both at once", "rating by MF beside"),
    ("PEPLER + MLP", "PEPLER both at once", "rating by MLP beside"),
    ("PEPLER sequential", "PEPLER-D", "vectors, not features"),
)


def explained(dataset: Dataset) -> Dataset:
    """The data set with explanations and features found in its texts."""
    table = dataset.records["reviews"]
    said, named = [], []
    for text in table.column("text").to_pylist():
        sentence, feature = _first(text or "")
        said.append(sentence)
        named.append(feature)
    user = table.column("user").to_numpy()
    counts = np.bincount(user[[text is not None for text in said]], minlength=dataset.n_users)
    active = np.isin(user, np.argsort(-counts, kind="stable")[:ACTIVE])
    said, named = ([text if here else None for text, here in zip(texts, active, strict=True)] for texts in (said, named))
    for column, values in (("explanation", said), ("feature", named)):
        table = table.set_column(table.column_names.index(column), column, pa.array(values, pa.large_string()))
    return replace(dataset, records={"reviews": table})


def _first(text: str) -> tuple[str | None, str | None]:
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        words = WORDS["words"](sentence)
        if 4 <= len(words) <= LONGEST:
            for word in words:
                if word in FEATURES:
                    return sentence, word
    return None, None


def told(split: Split) -> list[str]:
    """The texts of training reviews."""
    table = split.dataset.records["reviews"]
    user, event = (table.column(name).to_numpy() for name in ("user", "event"))
    known = table.filter(pa.array(event < split.train.stop[user])).column("text").to_pylist()
    return [text for text in known if text]


def backbone(texts: list[str], folder: Path, *, seed: int = 0) -> Path:
    """Stage zero: a small causal model with a tokenizer of its own, from texts."""
    if (folder / "model.safetensors").exists():
        return folder
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    engine = Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, special_tokens=[end], initial_alphabet=letters, show_progress=False)
    engine.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=engine, bos_token=end, eos_token=end, pad_token=end)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    # Sentences, each begun and ended, so that the model knows how one ends; shuffled, and packed into rows of 64 tokens.
    sentences = [each for text in texts for each in re.split(r"(?<=[.!?])\s+", text) if each]
    order = np.random.default_rng(seed).permutation(len(sentences))
    stream = [0] + [token for at in order for token in [*engine.encode(" " + sentences[at]).ids, 0]]
    rows = torch.tensor(stream[: len(stream) // 64 * 64]).view(-1, 64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = math.ceil(len(rows) / 16)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (step + 1) / 50) * (1 - step / steps)
        batch = rows[step * 16 : step * 16 + 16]
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"stage zero: step {step}/{steps}, loss {float(loss.detach()):.3f}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    model.eval().save_pretrained(folder)
    return folder


@torch.no_grad()
def judged(fitted: Fitted, split: Split) -> dict:
    """The measures of the test part, and by review log p a token, ROUGE-1 and FMR."""
    found = evaluate(fitted, split)
    task, network = fitted.system.task, fitted.scorer
    assert isinstance(network, Explainer)
    rows = task.rows(split.test)
    told = [network.tell(task.view.collate(rows.take(np.array([at])))) for at in range(len(rows))]
    assert found.answers is not None
    return {
        "measures": found.measures,
        "log_p": [float(each.text) / each.tokens for each in told],
        "written": found.answers.column("generated").to_pylist(),
        "rouge": found.table.column("ROUGE-1").to_pylist(),
        "fmr": found.table.column("FMR").to_pylist() if "FMR" in found.table.column_names else None,
        "cpu_seconds": fitted.cpu_seconds,
    }


def trivial(split: Split) -> dict[str, dict]:
    """Sentences that need no model: the most frequent one; one drawn from training; one drawn from those of the item."""
    view = peter(longest=LONGEST).task.view
    train, test = view.rows(split.train, ahead=0, rng=np.random.default_rng(0)), view.held_out(split.test)
    said = view.collate(train).texts["explanation"]
    batch = view.collate(test)
    rng = np.random.default_rng(0)
    counts: dict[str, int] = {}
    for text in said:
        counts[text.lower()] = counts.get(text.lower(), 0) + 1
    top = max(sorted(counts), key=lambda text: counts[text])
    anyone = [said[at] for at in rng.integers(0, len(said), len(test))]
    of_item = []
    for item, other in zip(test.item.tolist(), anyone, strict=True):
        own = np.flatnonzero(train.item == item)
        of_item.append(said[int(rng.choice(own))] if len(own) else other)
    plain = [" ".join(WORDS["words"](text)) for text in batch.texts["explanation"]]
    every = tuple(sorted(set(FEATURES)))
    found = {}
    for name, written in (("most frequent", [top] * len(test)), ("random", anyone), ("random of the item", of_item)):
        texts = Texts(tuple(" ".join(WORDS["words"](text)) for text in written), tuple(plain), batch.texts["feature"], every)
        chosen = (BLEU(1), BLEU(4), ROUGE(1), ROUGE(2), ROUGE("L"), USR(), Distinct(2), FMR(), FCR(), DIV())
        found[name] = {"measures": {str(each): float(np.mean(each(texts))) for each in chosen}, "written": written}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/studies/explanation"))
    a = parser.parse_args()
    dataset = explained(sources.load(f"reviews:{a.data_root / 'amazon-instruments-reviews'}"))
    split = by_review(dataset)
    name = str(backbone(told(split), a.runs / "backbone").resolve())

    def small(**given: object) -> Callable[[float], System]:
        common = {"backbone": name, "longest": LONGEST, "epochs": 5, "patience": 1, "batch_size": 32}
        return lambda lr: pepler(**{**common, **given, "lr": lr})

    def of_ids(**given: object) -> Callable[[float], System]:
        return lambda lr: peter(**{**SMALL, **given})

    arms: dict[str, Callable[[float], System]] = {
        "PETER": of_ids(),
        "PETER without context": of_ids(context=0.0),
        "PETER+": of_ids(feature=True),
        "PEPLER prompt only": small(tuned="prompt"),
        "PEPLER sequential": small(),
        "PEPLER both at once": small(tuned="both"),
        "PEPLER + MF": small(rating="mf"),
        "PEPLER-D": small(discrete=True),
        "PEPLER + MLP": small(rating="mlp"),
    }
    found: dict[str, dict] = trivial(split)
    for arm, make in arms.items():
        tried = []
        for lr in RATES if arm.startswith("PEPLER") else (SMALL["lr"],):
            kept = a.runs / f"{re.sub(r'[^a-z]+', '-', arm.lower().replace('+', 'plus'))}-{lr:.0e}"
            done = kept.with_suffix(".json")
            if not done.exists():
                with Reporter() as reporter:
                    fitted = fit(make(lr), split, out=kept, resume=True, execution=CPU, reporter=reporter)
                last = fitted.system.stages[-1].name
                valid = min(line["valid"]["PPL"] for line in fitted.log if line["stage"] == last)
                done.write_text(json.dumps({**judged(fitted, split), "lr": lr, "valid": valid}))
            tried.append(json.loads(done.read_text()))
        found[arm] = min(tried, key=lambda each: each["valid"])
        found[arm]["tried"] = {str(each["lr"]): each["valid"] for each in tried}
        report(found, split)


def report(found: dict[str, dict], split: Split) -> None:
    """Writes the tables."""
    rows = []
    for one, two, what in (test for test in TESTS if {test[0], test[1]} <= found.keys()):
        for measure in ("log_p", "rouge", "fmr"):
            x, y = (np.array(found[arm][measure]) for arm in (one, two))
            gain = paired_interval(x, y, seed=0)
            rows.append(
                {
                    "what": what, "arms": [one, two], "measure": measure, "gain": [gain.mean, gain.low, gain.high],
                    "p": sign_flip_test(x, y, seed=0),
                }
            )  # fmt: skip
    for row, p in zip(rows, [] if not rows else holm(np.array([row["p"] for row in rows])), strict=True):
        row["p_holm"] = float(p)
    view = peter(longest=LONGEST).task.view
    sizes = {
        "training": len(view.rows(split.train, ahead=0, rng=np.random.default_rng(0))),
        "validation": len(view.held_out(split.valid)),
        "test": len(view.held_out(split.test)),
    }
    out = {
        "data": "amazon-instruments-reviews", "reviews": sizes, "settings": {"peter": SMALL}, "version": __version__,
        "arms": {
            arm: {
                "measures": each["measures"], "cpu_seconds": each.get("cpu_seconds"), "examples": each["written"][:3],
                "validation_ppl_by_rate": each.get("tried"),
            }
            for arm, each in found.items()
        },
        "tests": rows,
    }  # fmt: skip
    (RESULTS / "explanation.json").write_text(json.dumps(out, indent=1) + "\n")
    names = ("PPL", "BLEU-1", "BLEU-4", "ROUGE-1", "ROUGE-L", "USR", "Distinct-2", "FMR", "FCR", "DIV", "RMSE")
    lines = [
        "# Explanations on amazon-instruments-reviews",
        "",
        f"Reviews with an explanation: {', '.join(f'{n:,} {part}' for part, n in sizes.items())}; one seed. PPL compares within",
        "a system alone (PETER's is a word, PEPLER's a sub-word). DIV: lower is better. Made by `python -m studies.explanation`.",
        "",
        "| arm | " + " | ".join(names) + " | CPU s |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for arm, each in found.items():
        cells = [f"{each['measures'][name]:.3f}" if name in each["measures"] else "-" for name in names]
        cells.append(f"{each['cpu_seconds']:,.0f}" if "cpu_seconds" in each else "-")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    lines += ["", "| difference | measure | gain (95 %) | p (Holm) |", "|---|---|---|---|"]
    for row in rows:
        mean, low, high = row["gain"]
        label = {"log_p": "log p a token", "rouge": "ROUGE-1", "fmr": "FMR"}[row["measure"]]
        lines.append(
            f"| {row['arms'][0]} - {row['arms'][1]} ({row['what']}) | {label} | {mean:+.4f} [{low:+.4f}, {high:+.4f}] "
            f"| {row['p_holm']:.4f} |"
        )
    (RESULTS / "explanation.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
