"""Verbalisers, calibration and ensembles against their equations, word by word."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lmrs.errors import ContractError
from lmrs.language import Backbone
from lmrs.prompts import ClassHead, MultiMask, Words, YesNo, calibrated, content_free_prior, ensemble
from lmrs.testing.values import check_repr

TOKENS = Backbone("tiny-encoder").tokenizer()
SETS = (("pos", ("good", "great", "yes")), ("neg", ("bad",)))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3


def log_p(logits: list[float], token: int) -> float:
    top = max(logits)
    return logits[token] - top - math.log(sum(math.exp(each - top) for each in logits))


def one(word: str) -> int:
    (token,) = TOKENS.encode(" " + word)
    return token


@pytest.mark.parametrize("together", ["mean", "max", "sum"])
def test_words_are_the_equation(together: str) -> None:
    logits = drawn(4, TOKENS.size + 3)
    verbaliser = Words(SETS, together)
    check_repr(verbaliser)
    scores = verbaliser.build(TOKENS).score(logits)
    assert verbaliser.classes == ("pos", "neg")
    for row, found in zip(logits.tolist(), scores.tolist(), strict=True):
        for (_, words), score in zip(SETS, found, strict=True):
            each = [log_p(row, one(word)) for word in words]
            wanted = {"mean": sum(each) / len(each), "max": max(each), "sum": math.log(sum(map(math.exp, each)))}[together]
            assert score == pytest.approx(wanted, abs=1e-12)
    assert torch.allclose(verbaliser.build(TOKENS).probability(logits).sum(1), torch.ones(4, dtype=torch.float64))


def test_a_mapping_makes_an_equal_value() -> None:
    assert Words({"pos": ["good", "great", "yes"], "neg": ("bad",)}) == Words(SETS)


def test_two_single_words_are_a_softmax_over_two_logits() -> None:
    """Prompt4NR: the probability of the positive word against the negative one."""
    logits = drawn(5, TOKENS.size)
    share = YesNo().build(TOKENS).probability(logits)[:, 1]
    assert torch.allclose(share, torch.sigmoid(logits[:, one("yes")] - logits[:, one("no")]))
    assert YesNo().classes == ("no", "yes")
    several = YesNo(yes=("yes", "good"), no=("no", "bad"), together="sum").build(TOKENS).probability(logits)
    odds = (logits[:, one("yes")].exp() + logits[:, one("good")].exp()) / (
        logits[:, one("no")].exp() + logits[:, one("bad")].exp()
    )
    assert torch.allclose(several[:, 1], odds / (1 + odds))
    check_repr(YesNo(("good",), ("bad",), "max", ""))


@pytest.mark.parametrize("together", ["mean", "max", "sum"])
def test_an_impossible_word_is_no_trap(together: str) -> None:
    """A logit of -inf elsewhere, or in a class, gives -inf at most, never a NaN."""
    logits = drawn(2, TOKENS.size)
    logits[:, one("bad")] = -math.inf
    scores = Words(SETS, together).build(TOKENS).score(logits)
    assert scores[:, 0].isfinite().all()
    assert (scores[:, 1] == -math.inf).all()


def test_where_a_word_stands_decides_its_token() -> None:
    assert Words(SETS, lead="").build(TOKENS).ids[1, 0] == TOKENS.encode("bad")[0] != TOKENS.encode(" bad")[0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Words({"a": ("good",), "b": ("terrific",)}).build(TOKENS),
            "one token of the backbone's vocabulary, got ' terrific', 9 tokens",
        ),
        (
            lambda: Words({"a": ("Yes",), "b": ("x",)}).build(TOKENS),
            "got ' x', 2 tokens; set lead='' if nothing stands before it, or",
        ),
        (lambda: Words({"a": ("good",)}), "at least two classes, each with words"),
        (lambda: Words({"a": ("good",), "b": ()}), "at least two classes, each with words"),
        (lambda: Words({"a": ("good",), "b": ("bad", "good")}), "each word in one class, once, got 'good' twice"),
        (lambda: Words(SETS, "median"), "together=mean, max, sum, got 'median'"),
        (lambda: YesNo(no=("yes",)).build(TOKENS), "got 'yes' twice"),
        (lambda: Words(SETS).build(TOKENS).score(drawn(3, 2, TOKENS.size)), r"logits \[M, W\] with W above"),
        (lambda: Words(SETS).build(TOKENS).score(drawn(3, 20)), r"logits \[M, W\] with W above [0-9]+, got shape \(3, 20\)"),
        (lambda: MultiMask(0), "n of at least 1"),
        (lambda: MultiMask(padding="some"), "padding='exclude' or 'include'"),
        (lambda: MultiMask().build(TOKENS, ["good", " "]), "texts that the vocabulary can write, got ' '"),
        (
            lambda: MultiMask(2).build(TOKENS, ["good"]).score(drawn(1, 3, TOKENS.size)),
            r"logits at 2 masks a prompt, got 3; make \[mask n\]",
        ),
        (lambda: ClassHead(("one",)), "at least two classes"),
        (lambda: content_free_prior(drawn(0, 2)), "at least one content-free prompt"),
        (lambda: calibrated(drawn(2, 3), drawn(2)), r"a prior of shape \(3,\), got \(2,\)"),
        (lambda: ensemble([]), "at least one template"),
        (lambda: ensemble([drawn(2, 2), drawn(3, 2)]), "scores of one shape"),
        (lambda: ensemble([drawn(2, 2)], [1.0, 1.0]), "1 weights"),
        (lambda: ensemble([drawn(2, 2)] * 2, [2.0, -1.0]), "none negative"),
        (lambda: ensemble([drawn(2, 2)] * 2, [0.0, 0.0]), "not all zero"),
    ],
)
def test_what_it_refuses(make, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        make()


@pytest.mark.parametrize("padding", ["exclude", "include"])
def test_several_masks_are_a_mean_over_masks(padding: str) -> None:
    texts = ["movie", "The movie of", "book of the good", "a a a a a a"]
    reader = MultiMask(4, padding).build(TOKENS, texts)
    check_repr(MultiMask(4, padding))
    logits = drawn(3, 4, TOKENS.size)
    scores = reader.score(logits)
    for row, found in zip(logits.tolist(), scores.tolist(), strict=True):
        for text, score in zip(texts, found, strict=True):
            ids = TOKENS.encode(" " + text)[:4]
            if padding == "include":
                ids = ids + [TOKENS.pad] * (4 - len(ids))
            assert score == pytest.approx(sum(log_p(row[at], token) for at, token in enumerate(ids)) / len(ids), abs=1e-12)
    assert reader.cut == sum(len(TOKENS.encode(" " + text)) > 4 for text in texts) == 2


def test_a_class_head_is_linear() -> None:
    check_repr(ClassHead(("a", "b", "c")))
    one, two = (ClassHead(("a", "b", "c")).build(5, torch.Generator().manual_seed(1)) for _ in range(2))
    states = drawn(4, 5).float()
    assert torch.equal(one(states), two(states))
    torch.testing.assert_close(one(states), states @ one.weight.T + one.bias)


def test_calibration_takes_the_habit_off() -> None:
    habit = drawn(3, 4, seed=1)
    prior = content_free_prior(habit)
    torch.testing.assert_close(prior.exp(), habit.softmax(1).mean(0))
    scores = drawn(5, 4)
    wanted = scores.softmax(1) / prior.exp()
    torch.testing.assert_close(calibrated(scores, prior).softmax(1), wanted / wanted.sum(1, keepdim=True))
    alone = content_free_prior(habit[:1])
    torch.testing.assert_close(calibrated(habit[:1], alone), torch.zeros(1, 4, dtype=torch.float64), atol=1e-12, rtol=0)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any))
def test_an_ensemble_is_a_mean_of_probabilities(weights: list[int]) -> None:
    scores = [drawn(3, 2, seed=at) for at in range(len(weights))]
    found = ensemble(scores, [float(each) for each in weights])
    wanted = sum(weight * each.softmax(1) for weight, each in zip(weights, scores, strict=True)) / sum(weights)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(found.sum(1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(ensemble(scores), ensemble(scores, [0.5] * len(weights)))
