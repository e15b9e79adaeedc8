"""P5's families of questions: what is asked and answered, what the data must give, one run that is asked several things."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import reviewed
import torch

from lmrs import objectives, systems
from lmrs.batch import Batch
from lmrs.cli import main
from lmrs.dataset import Dataset
from lmrs.errors import ContractError, DataError, UserError
from lmrs.evaluate import evaluate
from lmrs.fit import Execution, Fitted, fit
from lmrs.language import Backbone
from lmrs.models.answering import AnsweringNetwork
from lmrs.recommender import Recommender
from lmrs.split import Split, by_review, leave_one_out
from lmrs.system import Stage, System
from lmrs.systems.p5_questions import ASKS, FAMILIES
from lmrs.testing import tiny
from lmrs.views.reviews import pairs
from lmrs.visibility import Causal
from lmrs.vocab import Vocab

SPELT = {"dim": 16, "layers": 1, "heads": 2, "max_len": 4, "beams": None, "dropout": 0.0}
TOKENS = Backbone("tiny-seq2seq").tokenizer()
CPU = Execution(device="cpu")


def built(system: System, split: Split) -> tuple[AnsweringNetwork, Vocab]:
    vocab = replace(tiny.vocab(split.train), prepared=system.model.prepare(split.train, seed=0))  # type: ignore[union-attr]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = system.model.build(vocab)
    assert isinstance(network, AnsweringNetwork)
    return network, vocab


def drawn(system: System, split: Split, *, seed: int = 0, times: int = 1) -> tuple[Batch, Batch, AnsweringNetwork]:
    """(a batch of all training events, the same with questions, the network)."""
    network, vocab = built(system, split)
    stage = system.stages[0]
    assert isinstance(stage, Stage)
    rows = stage.view.rows(split.train, ahead=0, rng=np.random.default_rng(0))
    batch = stage.view.collate(rows.take(np.tile(np.arange(len(rows)), times)))
    return batch, stage.objective.corrupt(batch, vocab, torch.Generator().manual_seed(seed)), network


def whole() -> System:
    return systems.p5(families=tuple(FAMILIES), candidates=6, index="number", **SPELT)


# -- questions and answers -----------------------------------------------------------------------------------------------


def test_every_question_says_what_its_wording_names_and_no_answer_is_among_its_words() -> None:
    """All prompts and answers of some epochs, written once more by hand from the batch."""
    system, split = whole(), reviewed.split()
    _, prepared, network = drawn(system, split, times=8)
    shown = network.shown(network.asked(prepared))
    offsets, tokens = network.answers(prepared)
    codes = [TOKENS.decode(network.index.code(item).tolist()) for item in range(network.n_items)]
    met: Counter[str] = Counter()
    for row, (prompt, number) in enumerate(zip(shown, prepared.rows["wording"].tolist(), strict=True)):
        text, kind = network.about.questions[number]
        user, item, rating = (prepared.rows[name][row].item() for name in ("user", "item", "rating"))
        history = [codes[at] for at in prepared.channels["item"][prepared.offsets[row] : prepared.offsets[row + 1]].tolist()]
        verdict, star = prepared.rows["verdict"][row].item(), prepared.rows["star"][row].item()
        texts = {name: (values[row] or "") for name, values in prepared.texts.items()}
        filled = text.replace('{list history separator=" , "}', " , ".join(history)).replace("{user}", f"user_{user}")
        listed = [codes[at] for at in prepared.rows["among"][row].tolist() if at >= 0]
        filled = filled.replace('{list candidates separator=" , "}', " , ".join(listed)).replace("{star}", f"{star:g}")
        filled = filled.replace("{item}", codes[prepared.rows["shown"][row].item()])
        for name in ("feature", "title", "text"):
            filled = filled.replace(f"{{{name}}}", texts[name])
        assert prompt == f"{filled}</s>"
        wanted = {
            "item": codes[item],
            "yes-no": " yes" if prepared.rows["shown"][row] == item else " no",
            "stars": " yes" if star == rating else " no",
            "rating": f" {rating:g}",
            "like": " like" if rating > 3 else " dislike",
            "explanation": f" {texts['explanation']}",
            "rated explanation": f" {rating:g} , {texts['explanation']}",
            "title": f" {texts['title']}",
        }[kind]
        assert TOKENS.decode(tokens[offsets[row] : offsets[row + 1]].tolist(), control=True) == f"{wanted}</s>"
        if kind in ("yes-no", "stars"):
            met[f"{kind} {verdict}"] += 1
        if kind not in ("stars", "rated explanation") and "{star}" in text:
            assert star == rating
        met[kind] += 1
    assert len(met) == 8 + 4
    for kind in ("yes-no", "stars"):
        assert 0.35 < met[f"{kind} True"] / met[kind] < 0.65


def test_candidates_are_the_true_item_and_strangers_in_any_order() -> None:
    system = systems.p5(families=("candidates",), asks="candidates", candidates=6, index="number", **SPELT)
    _, prepared, _ = drawn(system, tiny.split(), times=4)
    places = Counter()
    for row, among in enumerate(prepared.rows["among"].tolist()):
        history = set(prepared.channels["item"][prepared.offsets[row] : prepared.offsets[row + 1]].tolist())
        item = int(prepared.rows["item"][row])
        real = [each for each in among if each >= 0]
        assert len(set(real)) == len(real) == 6
        assert not (set(real) - {item}) & history, "a candidate that the history has"
        places[real.index(item)] += 1
    assert min(places[at] for at in range(6)) > 0.5 * len(prepared.rows["among"]) / 6, "the place tells the answer"


def test_a_row_is_asked_only_what_it_can_answer() -> None:
    data = reviewed.reviewed(explained=0.5)
    assert data.rating is not None
    rating = data.rating.copy()
    rating[::3] = np.nan
    system, split = whole(), leave_one_out(replace(data, rating=rating))
    batch, prepared, network = drawn(system, split, times=4)
    for row, number in enumerate(prepared.rows["wording"].tolist()):
        text, kind = network.about.questions[number]
        if kind in ("rating", "like", "stars", "rated explanation") or "{star}" in text:
            assert prepared.rows["rating"][row].isfinite()
        if "explanation" in kind:
            assert batch.texts["explanation"][row] is not None
        if "{feature}" in text:
            assert batch.texts["feature"][row] is not None
        assert "history" not in text or batch.lengths[row] > 0
    alone = systems.p5(families=("rating",), asks="rating", **SPELT)
    _, some, network = drawn(alone, split)
    nothing = ~some.rows["rating"].isfinite()
    assert nothing.any()
    assert torch.equal(some.rows["wording"] < 0, nothing), "rows that can be asked nothing are left out"
    objective = alone.stages[0].objective  # type: ignore[union-attr]
    assert objective.counts(some) == {"rating": int((~nothing).sum())}


def test_families_are_drawn_by_their_shares() -> None:
    system = systems.p5(families=("sequential", "yes-no", "rating"), shares=(1.0, 2.0, 1.0), index="number", **SPELT)
    _, prepared, _ = drawn(system, tiny.split(), times=30)
    counts = system.stages[0].objective.counts(prepared.take((prepared.lengths > 0).nonzero()[:, 0]))  # type: ignore[union-attr]
    total = sum(counts.values())
    assert abs(counts["yes-no"] / total - 0.5) < 0.04
    assert abs(counts["rating"] / total - 0.25) < 0.04


# -- answers of a network ------------------------------------------------------------------------------------------------


def test_a_rating_is_an_expectation_over_the_ratings_of_training() -> None:
    """From one forward pass a word, and for the likeliest word."""
    split = tiny.split()
    system = systems.p5(families=("rating",), asks="rating", index="number", **SPELT)
    network, _ = built(system, split)
    batch = pairs(np.array([3, 5]), np.array([1, 2]))
    written = network.paired(batch, np.full(2, network.about.asking))
    total = torch.zeros(2, 5, dtype=torch.float64)
    for at, word in enumerate((" 1", " 2", " 3", " 4", " 5")):
        answer = [*TOKENS.encode(word), TOKENS.eos]
        wanted = (np.arange(3) * len(answer), np.array(answer * 2))
        total[:, at] = network.gains(written, wanted).detach().double()
    found = network.rate(batch)
    assert found is not None
    assert torch.allclose(found, total.softmax(1) @ torch.arange(1.0, 6.0, dtype=torch.float64), atol=1e-5)
    network.about = replace(network.about, expected=False)
    assert torch.equal(network.rate(batch), total.argmax(1) + 1.0)  # type: ignore[arg-type]


def test_yes_and_no_are_log_odds_and_lists_do_not_know_their_order() -> None:
    split = tiny.split()
    batch = tiny.marked(tiny.batch(split.train, lengths=(4, 2)))
    candidates = torch.tensor([[1, 5, 7, -1], [2, 0, 3, 9]])
    network, _ = built(systems.p5(families=("yes-no",), asks="yes-no", index="number", **SPELT), split)
    found = network.score_among(batch, Causal(), candidates)
    for row in range(2):
        for at, item in enumerate(candidates[row].tolist()):
            if item < 0:
                continue
            one = pairs(batch.rows["user"][row : row + 1].numpy(), np.array([item]))
            written = network.paired(one, np.array([network.about.asking]))
            yes, no = (
                network.gains(written, (np.array([0, len(t)]), np.array(t))).item() for t in map(network.spelt, ("yes", "no"))
            )
            assert abs(float(found[row, at]) - (yes - no)) < 1e-4
    network, _ = built(systems.p5(families=("candidates",), asks="candidates", index="number", **SPELT), split)
    one = network.score_among(batch, Causal(), candidates)
    two = network.score_among(batch, Causal(), candidates[:, [3, 1, 0, 2]])
    assert torch.allclose(two, one[:, [3, 1, 0, 2]], atol=1e-5)
    network.about = replace(network.about, candidates=3)
    network.prompts.listed = 3
    with pytest.raises(ContractError, match="at most 3 candidates in a list, got 4"):
        network.score_among(batch, Causal(), candidates)
    with pytest.raises(UserError, match="a question that ranks the whole catalogue"):
        network.score(batch, Causal())


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"families": ("ratings",)}, r"families among .*did you mean rating"),
        ({"asks": "rating"}, "asks among sequential, direct, which these families teach, got 'rating'; add rating to families"),
        ({"asks": "sequentially"}, "did you mean sequential"),
        ({"shares": (1.0,)}, "2 shares, one for each family"),
        ({"shares": (1.0, 0.0)}, "shares above 0"),
        ({"prompt": "new"}, "prompt 'seen' or 'unseen'"),
        ({"candidates": 1}, "candidates of at least 2"),
    ],
)
def test_wrong_options_are_refused(options: dict, told: str) -> None:
    with pytest.raises(ContractError, match=told):
        systems.p5(**options)


@pytest.mark.parametrize(
    ("families", "asks", "data", "told"),
    [
        (
            ("rating",),
            "rating",
            replace(tiny.dataset(), rating=None),
            "needed ratings, for questions about them, got tiny, which has none",
        ),
        (("explanation",), "explanation", tiny.dataset(), r"reviews with explanation .* load it with its texts"),
        (("explanation",), "explanation", reviewed.reviewed(explained=0.0), "choose another text with says"),
        (("review",), "review-title", tiny.dataset(), "reviews with title among the training events"),
    ],
)
def test_a_family_that_the_data_cannot_carry_is_refused(families: tuple, asks: str, data: Dataset, told: str) -> None:
    with pytest.raises(DataError, match=told):
        fit(systems.p5(families=families, asks=asks, epochs=1, **SPELT), leave_one_out(data), execution=CPU)


def test_every_question_that_can_be_asked_has_a_wording_beyond_training() -> None:
    for asks, (family, _, _) in ASKS.items():
        for prompt in ("seen", "unseen"):
            system = systems.p5(families=(family,), asks=asks, prompt=prompt)
            objective = system.stages[0].objective  # type: ignore[union-attr]
            assert isinstance(objective, objectives.Families)
            asked = system.model.questions[system.model.asking]  # type: ignore[union-attr]
            assert (asked in objective.questions) == (prompt == "seen")


# -- one model for several questions -------------------------------------------------------------------------------------

JOINT = {
    "families": ("sequential", "rating", "explanation"), "index": "independent", "users": 8, "longest": 8, "recent": None,
    "max_len": 2, "dim": 32, "layers": 1, "heads": 2, "dropout": 0.0, "beams": None, "lr": 1e-2, "batch_size": 32, "epochs": 42,
    "every": 42, "patience": None, "whole_words": False,
}  # fmt: skip


def told() -> Split:
    """Users of odd number call everything bad and give 2, the others good and 5; an item is spoken of by its own feature."""
    owner = np.repeat(np.arange(8), 28)
    vocab = Vocab(*(pa.array([f"{kind}{at}" for at in range(count)], pa.large_string()) for kind, count in (("i", 9), ("u", 8))))
    item = np.random.default_rng(0).integers(0, 9, len(owner)).astype(np.int32)
    rating = np.where(owner % 2, 2, 5).astype(np.float32)
    return by_review(reviewed.reviewed(Dataset("told", vocab, item, np.arange(9) * 28, rating=rating)), valid=0.1, test=0.15)


@cache
def joint() -> Fitted:
    return fit(systems.p5(**JOINT), told(), seed=1, execution=CPU)


def test_one_model_learns_to_rate_and_to_explain_and_is_asked_both() -> None:
    split, recommender = told(), Recommender.of(joint())
    rated = evaluate(recommender.asking(systems.p5(**JOINT, asks="rating")), split)
    assert rated.measures["RMSE"] < 0.75, "half of 1.5, what the mean rating errs"
    answers = rated.answers
    assert answers is not None
    assert set(answers.column("rating").to_pylist()) == {2.0, 5.0}
    plain = evaluate(recommender.asking(systems.p5(**JOINT, asks="explanation")), split)
    hinted = evaluate(recommender.asking(systems.p5(**JOINT, asks="feature")), split)
    assert plain.answers is not None
    assert all(text.startswith("The") for text in plain.answers.column("generated").to_pylist())
    assert min(told.measures["ROUGE-1"] for told in (plain, hinted)) > 75, "the best single sentence reaches 68"
    assert {"RMSE", "PPL", "FMR"} <= set(plain.measures)
    ranked = evaluate(recommender, split, measures=["NDCG@10"])
    assert 0 < ranked.measures["NDCG@10"] < 1


def test_other_weights_are_not_asked() -> None:
    with pytest.raises(Exception, match="the tensor"):
        Recommender.of(joint()).asking(systems.p5(**{**JOINT, "dim": 16, "asks": "rating"}))


def test_the_command_line_puts_other_questions_to_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    lines = ["user_id,item_id,timestamp,rating,review,summary,explanation,feature"]
    for user in range(12):
        for at in range(6):
            lines.append(f"u{user},i{rng.integers(8)},{at},{1 + user % 5},Long words.,Short {at},The tone is good,tone")
    (tmp_path / "shop.csv").write_text("\n".join(lines) + "\n")
    run = str(tmp_path / "run")
    small = [f"--set={name}={value}" for name, value in {**SPELT, "beams": "none", "epochs": 1, "longest": 4}.items()]
    with pytest.raises(SystemExit) as done:
        main(["fit", "p5", "--data", f"reviews:{tmp_path / 'shop.csv'}", "--out", run, "--quiet", *small,
              "--set=families=sequential,rating,explanation"])  # fmt: skip
    assert not done.value.code
    capsys.readouterr()
    for ask, measure in (("rating", "RMSE"), ("feature", "BLEU-4"), ("explanation", "PPL")):
        with pytest.raises(SystemExit) as done:
            main(["evaluate", run, "--ask", ask, "--json", "--quiet"])
        assert not done.value.code
        assert measure in json.loads(capsys.readouterr().out)["measures"]
    report = json.loads((tmp_path / "run" / "evaluation" / "report.json").read_text())
    assert "NDCG@10" in report["measures"], "the run's own report stays"
    for words in (["--item", "i1", "--user", "u1"], ["--item", "i1", "--user", "u1", "--feature", "tone"]):
        with pytest.raises(SystemExit) as done:
            main(["explain", run, *words])
        assert not done.value.code
    with pytest.raises(SystemExit) as done:
        main(["evaluate", run, "--ask", "review-title", "--quiet"])
    assert done.value.code == 1
    assert "add review to families" in capsys.readouterr().err
