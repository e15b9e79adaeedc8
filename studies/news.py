"""News: does a language model pay that learns from clicks? Which prompts do, and several together?

    python -m studies.news [texts] [prompts] [few] [--seed N]

The data is `synthetic_news`, whose ceiling is known: the real logs at hand lack the texts. In the first question one word in six
of a title tells its topic, so that a vector of the whole title says little. Two questions:

texts: the same reader over texts that are read by a frozen sentence encoder and by one whose last two layers learn, both from the
same state (PLM-NR with mean pooling); a click network on frozen vectors (PREC) with and without a pre-trained reader; popularity.
Needs the backbone minilm.

prompts: Prompt4NR's discrete, continuous and hybrid templates, alone and together, on news whose titles speak of nothing but
their topic. No small masked language model is at hand, so a stage before the first one makes one: a BERT of two layers of width
64 over the words of the titles, taught to fill in words of titles and of histories of training impressions.

few: the same, taught clicks of every fourth reader alone.

AUC by impression on the test part; differences are paired by impression (randomisation test, Holm within a question).
Result: studies/results/news.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from lmrs import __version__, models, systems
from lmrs.dataset import Dataset
from lmrs.fit import Fitted, fit
from lmrs.measures import AUC, MINDMRR, NDCG
from lmrs.models.network import Scorer
from lmrs.progress import Reporter
from lmrs.records import Impressions
from lmrs.sources import news_ceiling, synthetic_news
from lmrs.split import Split, Train, by_time, fewer
from lmrs.statistics import holm, seeds_difference, sign_flip_test
from lmrs.system import System
from lmrs.systems.prompt4nr import TEMPLATES, prompt4nr
from lmrs.tasks import Clicks
from lmrs.views import Impressions as Shown

RESULTS = Path(__file__).parent / "results"
MEASURES = (AUC(), MINDMRR(), NDCG(5), NDCG(10))
DATA = {
    "texts": {"readers": 400, "articles": 160, "impressions": 4, "history": 6, "fresh": 60, "title": 6, "purity": 0.05},
    "prompts": {
        "readers": 400, "articles": 160, "impressions": 4, "history": 4, "fresh": 60, "title": 4, "purity": 1.0, "topics": 4,
        "likes": 1,
    },
}  # fmt: skip
DATA["few"] = DATA["prompts"]
SINGLE = ("discrete-action", "continuous-action", "hybrid-action")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", nargs="*", default=["texts", "prompts", "few"], help="which; all")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    with Reporter() as reporter:
        for question in a.questions:
            made = synthetic_news(**DATA[question])
            split = by_time(made, valid_from=0.75, test_from=0.85)
            arms: dict[str, dict] = {}
            if question == "texts":
                texts(arms, split, a.seed, reporter)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    pretrained(Path(folder), made, split, a.seed)
                    prompts(arms, split, Path(folder), 4 if question == "few" else 1, a.seed, reporter)
            keep(question, arms, split, a.seed)


# -- the first question ----------------------------------------------------------------------------------------------------


def texts(arms: dict[str, dict], split: Split, seed: int, reporter: Reporter) -> None:
    popular = models.Popularity().build(replace(split.dataset.vocab, counts=split.train.counts()))
    popular.estimate(split.train)
    arms["popularity"] = judged(popular, None, split, Clicks(Shown(max_len=6)), 0.0)
    reader = {"max_len": 6, "query": 64, "batch_size": 128, "patience": None}
    reader |= {"pooling": "mean", "layers": 6}
    options: dict[str, System] = {
        "PLM-NR, last two layers": systems.plm_nr(**reader, epochs=14, lr=5e-4),
        "same reader, frozen": systems.plm_nr(**reader, policy="frozen", epochs=40, lr=1e-3),
        "PREC": systems.prec(max_len=6, texts=("title",), pretrain_epochs=20, epochs=20, patience=None),
        "PREC without reader's pre-training": systems.prec(max_len=6, texts=("title",), pretrain=False, epochs=20, patience=None),
    }
    for name, system in options.items():
        fitted = fit(system, split, seed=seed, reporter=reporter)
        arms[name] = judged(fitted.scorer, fitted.objective, split, system.task, fitted.cpu_seconds)


def judged(scorer: Scorer, objective, split: Split, task, seconds: float) -> dict:
    with torch.no_grad():
        vocab = replace(split.dataset.vocab, counts=split.train.counts(), catalogue=split.dataset.items)
        found = task.judge(scorer, objective, task.rows(split.test), vocab, measures=MEASURES, seed=0)
    print(f"AUC {np.mean(found.values['AUC']):.4f}", flush=True)
    return {"values": found.values, "seconds": seconds}


# -- the second question ---------------------------------------------------------------------------------------------------


def prompts(arms: dict[str, dict], split: Split, backbone: Path, each: int, seed: int, reporter: Reporter) -> None:
    options = {"backbone": str(backbone), "head": "trained", "max_len": 4, "context": 128, "lr": 1e-3, "unclicked": 1}
    found: dict[str, Fitted] = {}
    for name in SINGLE:
        system = prompt4nr(**options, templates=(name,), epochs=8, batch_size=32, patience=None)
        fitted = found[name] = fit(system, some_readers(fewer(split, valid=60), each), seed=seed, reporter=reporter)
        arms[name] = judged(fitted.scorer, fitted.objective, split, system.task, fitted.cpu_seconds)
    system = prompt4nr(**options, templates=SINGLE)
    assert isinstance(system.model, models.Ensemble)
    together = system.model.build(found[SINGLE[0]].vocab)
    for member, name in zip(together.members, SINGLE, strict=True):
        member.load_state_dict(found[name].scorer.state_dict())
    seconds = sum(fitted.cpu_seconds for fitted in found.values())
    arms["all three together"] = judged(together, system.stages[-1].objective, split, system.task, seconds)


def some_readers(split: Split, each: int) -> Split:
    """The same split where only the clicks of every `each`-th reader are to be learnt from."""
    data = split.dataset
    stop = np.where(np.arange(data.n_users) % each == 0, split.train.stop, split.train.start)
    return replace(split, train=Train(data, stop))


def pretrained(folder: Path, made: Dataset, split: Split, seed: int) -> None:
    """Writes a small masked language model of the words of the titles and templates."""
    from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
    from tokenizers import models as kinds
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    titles = made.titles(np.arange(made.n_items))
    written = " ".join([*titles, *TEMPLATES.values(), "yes no good bad ; . , ? : '"]).lower()
    cutter = pre_tokenizers.BertPreTokenizer()
    words = sorted({word for word, _ in cutter.pre_tokenize_str(written)})
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    engine = Tokenizer(kinds.WordLevel({word: at for at, word in enumerate([*marks.values(), *words])}, unk_token="[UNK]"))
    engine.normalizer, engine.pre_tokenizer = normalizers.Lowercase(), cutter
    engine.add_special_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks.values()])
    fast = PreTrainedTokenizerFast(tokenizer_object=engine, model_max_length=128, **marks)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(fast), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=128,
    )  # fmt: skip
    model = BertForMaskedLM(config).train()
    log = Impressions.of(made.records["impressions"])
    known = np.flatnonzero(log.known(split.train.stop))
    read = ["; ".join(titles[item] for item in log.row(at)[0][-4:]) for at in known] + titles
    rng = np.random.default_rng([seed, 3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(400):
        some = [read[at] for at in rng.integers(0, len(read), 32)]
        ids = fast(some, return_tensors="pt", padding=True)
        plain = ids.input_ids > 4
        hidden = plain & (torch.from_numpy(rng.random(plain.shape)) < 0.2)
        inputs = ids.input_ids.masked_fill(hidden, fast.mask_token_id)
        states = model.bert(inputs, attention_mask=ids.attention_mask).last_hidden_state[hidden]
        loss = torch.nn.functional.cross_entropy(model.cls(states), ids.input_ids[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == 399:
            print(f"masked words, step {step}: loss {float(loss.detach()):.3f}", flush=True)
    model.eval().save_pretrained(folder)
    fast.save_pretrained(folder)


# -- the report --------------------------------------------------------------------------------------------------------------

PROMPTS = [
    ("hybrid-action", "continuous-action"),
    ("continuous-action", "discrete-action"),
    ("all three together", "BEST"),
]
PAIRS = {
    "texts": [
        ("PLM-NR, last two layers", "same reader, frozen"),
        ("PLM-NR, last two layers", "PREC"),
        ("PREC", "PREC without reader's pre-training"),
        ("same reader, frozen", "popularity"),
        ("PREC", "popularity"),
    ],
    "prompts": PROMPTS,
    "few": PROMPTS,
}


def keep(question: str, arms: dict[str, dict], split: Split, seed: int) -> None:
    """The answer to one question, beside what was found on the other."""
    rows = Clicks(Shown(max_len=6)).rows(split.test).which
    found = []
    for one, other in PAIRS[question]:
        if other == "BEST":  # the best single template of the test part: no easier one to beat
            other = max(SINGLE, key=lambda name: arms[name]["values"]["AUC"].mean())
        x, y = (arms[name]["values"]["AUC"] for name in (one, other))
        gain = seeds_difference(x[None], y[None], seed=0)
        p = sign_flip_test(x, y, seed=0)
        found.append({"one": one, "other": other, "gain": [gain.mean, gain.low, gain.high], "p": p})
    for row, p in zip(found, holm(np.array([row["p"] for row in found])), strict=True):
        row["p_holm"] = float(p)
    file = RESULTS / "news.json"
    told = json.loads(file.read_text()) if file.exists() else {}
    told |= {
        "version": __version__,
        question: {
            "seed": seed,
            "data": DATA[question],
            "training_events": split.train.n_events,
            "test_impressions": len(rows),
            "ceiling": {name: float(values[rows].mean()) for name, values in news_ceiling(split.dataset).items()},
            "arms": {
                name: {**{key: float(np.mean(each)) for key, each in arm["values"].items()}, "cpu_seconds": arm["seconds"]}
                for name, arm in arms.items()
            },
            "differences": found,
        },
    }
    file.write_text(json.dumps(told, indent=1) + "\n")
    lines = [
        "# News: what learns from clicks, and how it is asked",
        "",
        "`synthetic_news`, test impressions of ten news each. Made by `python -m studies.news`.",
    ]
    for name in PAIRS:
        if name in told:
            lines += [
                "",
                f"## {name.capitalize()}: {told[name]['test_impressions']:,} impressions, seed {told[name]['seed']}",
                "",
                *table(told[name]),
            ]
    (RESULTS / "news.md").write_text("\n".join(lines) + "\n")


def table(told: dict) -> list[str]:
    ceiling, names = told["ceiling"], [str(each) for each in MEASURES]
    lines = [
        f"| arm | {' | '.join(names)} | CPU seconds of fit |",
        "|---|---|---|---|---|---|",
        "| ceiling of those who know the history | " + " | ".join(f"{ceiling[name]:.4f}" for name in names) + " | |",
    ]
    for name, arm in told["arms"].items():
        lines.append(f"| {name} | " + " | ".join(f"{arm[each]:.4f}" for each in names) + f" | {arm['cpu_seconds']:.0f} |")
    lines += ["", "| AUC of | less that of | difference | p (Holm) |", "|---|---|---|---|"]
    for row in told["differences"]:
        mean, low, high = row["gain"]
        lines.append(f"| {row['one']} | {row['other']} | {mean:+.4f} [{low:+.4f}, {high:+.4f}] | {row['p_holm']:.4f} |")
    return lines


if __name__ == "__main__":
    main()
