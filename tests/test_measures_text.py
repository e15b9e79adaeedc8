"""Measures of text against sacrebleu, rouge-score, NLTK, hand-worked numbers, and the formulas written out slowly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate import bleu_score
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU as SacreBLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from lmrs import measures
from lmrs.errors import ContractError, UserError
from lmrs.measures import BLEU, DIV, FCR, FMR, PPL, ROUGE, USR, Distinct, ItemRatio, Likelihoods, SentenceBLEU, Texts, parse_text
from lmrs.measures.words import WORDS, common_subsequence, grams

EVERY = [
    BLEU(4), BLEU(1), BLEU(2, words="space", smooth="exp"), SentenceBLEU(2), SentenceBLEU(4, "13a"), ROUGE(1), ROUGE("L"),
    ROUGE(2, by="sets"), ROUGE("L", "sets", "words"), Distinct(2), Distinct(3, "responses"), ItemRatio(), USR(), USR("space"),
    FMR(), FCR(), DIV("space"), PPL(),
]  # fmt: skip
SENTENCES = st.lists(st.sampled_from(["the", "a", "cat", "dog", "mat", "on", ".", ",", "Cat", "3.5", "it's"]), max_size=9).map(
    " ".join
)
PAIRS = st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=6)
ANY_TEXT = st.text(st.sampled_from("ab Z09.,;:-'\"&!?()[]{}$%@#_ \n’éß漢<>/\\"), max_size=24)


def texts(pairs: list[tuple[str, str]]) -> Texts:
    return Texts(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


# --- names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", EVERY, ids=str)
def test_a_measure_is_a_value_that_can_be_written_and_read(measure):
    assert parse_text(str(measure)) == measure
    assert parse_text(f" {str(measure).lower()} ") == measure
    assert eval(repr(measure), vars(measures)) == measure
    assert hash(parse_text(str(measure))) == hash(measure)


def test_every_family_is_in_the_list_and_says_what_it_reads():
    assert {type(measure) for measure in EVERY} == set(measures.TEXT)
    assert [str(m) for m in (BLEU(4), ROUGE("L", "sets"), Distinct(2, "responses"), BLEU(1, smooth="exp"))] == [
        "BLEU-4", "ROUGE-L[sets]", "Distinct-2[responses]", "BLEU-1[exp]",
    ]  # fmt: skip
    assert {str(m) for m in EVERY if m.per_query} == {
        "SentenceBLEU-2", "SentenceBLEU-4[13a]", "ROUGE-1", "ROUGE-L", "ROUGE-2[sets]", "ROUGE-L[sets,words]", "FMR", "ItemRatio",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("BLUE-4", "a text measure such as BLEU-4, got 'BLUE-4'; did you mean BLEU"),
        ("NDCG@10", "a text measure such as BLEU-4"),
        ("BLEU", "BLEU with a length, got 'BLEU'; write BLEU-2"),
        ("USR-2", "USR without a length, got 'USR-2'; write USR"),
        ("BLEU-L", "n >= 1 for BLEU, got 'L'"),
        ("BLEU-0", "n >= 1 for BLEU, got 0"),
        ("BLEU-4[sets]", "options of BLEU, each once, got 'sets'; choose from 13a, latin, space, words, none, exp"),
        ("BLEU-4[exp,none]", "options of BLEU, each once"),
        ("PPL[space]", "options of PPL, each once, got 'space'; write PPL"),
    ],
)
def test_names_that_cannot_be_read_say_what_would_be_right(name, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        parse_text(name)
    with pytest.raises(ContractError, match="Distinct with by one of grams, responses, got 'words'"):
        Distinct(2, "words")


# --- words ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
def test_13a_cuts_as_sacrebleu_does(text):
    assert WORDS["13a"](text) == Tokenizer13a()(text).split()


def test_the_other_rules():
    assert WORDS["latin"]("It's 3.5 Straße_x") == ["it", "s", "3", "5", "stra", "e", "x"]
    assert WORDS["space"](" It's\t3.5\n. ") == ["It's", "3.5", "."]
    assert WORDS["words"]("It's 3.5 STRASSE_x — don’t!") == [
        "it's", "3", ".", "5", "strasse", "_", "x", "—", "don’t", "!",
    ]  # fmt: skip
    assert WORDS["words"]("Cafe\u0301") == WORDS["words"]("Café") == ["café"]
    assert WORDS["words"]("漢字 ελληνικά") == ["漢字", "ελληνικά"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=9), st.lists(st.sampled_from("abc"), max_size=9))
def test_the_longest_common_subsequence_is_the_longest(one, other):
    def found(words, n):
        return set(itertools.combinations(words, n))

    best = max(n for n in range(min(len(one), len(other)) + 1) if found(one, n) & found(other, n))
    assert common_subsequence(one, other) == best


def test_grams():
    assert grams("abcd", 2) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert grams("a", 2) == grams("", 1) == []


# --- BLEU -----------------------------------------------------------------------------------------------------------------


def test_bleu_worked_by_hand():
    # 6 words against 7: 5 of 6 words match, 3 of 5 pairs, 1 of 4 triples; nothing at order 4.
    pair = texts([("the cat sat on a mat", "the cat is sat on the mat")])
    short = math.exp(1 - 7 / 6)
    assert BLEU(1)(pair) == pytest.approx(100 * short * 5 / 6)
    assert BLEU(2)(pair) == pytest.approx(100 * short * math.sqrt(5 / 6 * 2 / 5))
    assert BLEU(3)(pair) == 0.0
    # Clipping: seven "the" match the two of the reference once each.
    assert BLEU(1)(texts([("the the the the the the the", "the cat is on the mat")])) == pytest.approx(100 * 2 / 7)
    # Corpus: matches and lengths are summed before dividing. (1 + 0) / (2 + 2), no brevity penalty.
    assert BLEU(1)(texts([("a b", "a c"), ("x y", "z")])) == pytest.approx(25.0)
    assert BLEU(4)(texts([("same words every time here", "same words every time here")])) == pytest.approx(100)
    assert BLEU(1)(texts([("", "a")])) == BLEU(4, smooth="exp")(texts([("a b", "a b")])) == 0.0


@settings(max_examples=150, deadline=None)
@given(PAIRS, st.integers(1, 4), st.sampled_from(["none", "exp"]), st.sampled_from(["13a", "none"]))
def test_bleu_equals_sacrebleu(pairs, n, smooth, tokenize):
    theirs = SacreBLEU(max_ngram_order=n, smooth_method=smooth, tokenize=tokenize, force=True)
    expected = theirs.corpus_score([a for a, _ in pairs], [[b for _, b in pairs]]).score
    got = BLEU(n, words={"13a": "13a", "none": "space"}[tokenize], smooth=smooth)(texts(pairs))
    assert got == pytest.approx(expected, abs=1e-9)


def test_two_rules_for_words_give_two_numbers():
    pair = texts([("Great strings, warm tone.", "great strings , warm tone .")])
    assert BLEU(1, words="space")(pair) < BLEU(1)(pair) < 100
    assert BLEU(4).signature == "nrefs:1|case:mixed|eff:no|tok:13a|smooth:none|order:4"


@settings(max_examples=100, deadline=None)
@given(PAIRS, st.integers(1, 4))
def test_sentence_bleu_equals_nltk_with_all_weight_on_one_order(pairs, n):
    weights = tuple(float(k == n) for k in range(1, 5))
    smooth = bleu_score.SmoothingFunction(epsilon=1e-300).method1  # NLTK's own filler for no match warns, and is as good as 0
    expected = [
        bleu_score.sentence_bleu([b.split()], a.split(), weights=weights, smoothing_function=smooth) if a else 0.0
        for a, b in pairs
    ]
    got = SentenceBLEU(n, words="space")(texts(pairs))
    assert got == pytest.approx(100 * np.array(expected), abs=1e-9)


# --- ROUGE ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.one_of(SENTENCES, ANY_TEXT), st.one_of(SENTENCES, ANY_TEXT)), min_size=1, max_size=4))
def test_rouge_equals_the_rouge_score_package(pairs):
    theirs = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    for n in (1, 2, "L"):
        expected = [theirs.score(b, a)[f"rouge{n}"].fmeasure for a, b in pairs]
        assert ROUGE(n)(texts(pairs)) == pytest.approx(100 * np.array(expected), abs=1e-9)


def test_rouge_of_sets_is_another_number():
    # generated a a b (pairs aa ab), reference a b b c (pairs ab bb bc).
    pair = texts([("a a b", "a b b c")])
    assert ROUGE(1, by="sets")(pair) == pytest.approx([100 * 2 * 1 * (2 / 3) / (1 + 2 / 3)])  # {a b} of {a b c}
    assert ROUGE(1)(pair) == pytest.approx([100 * 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)])
    assert ROUGE(2, by="sets")(pair) == pytest.approx([100 * 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)])
    precision, recall = 2 / 3, 2 / 4
    beta = precision / recall
    expected = (1 + beta**2) * recall * precision / (recall + beta**2 * precision)
    assert ROUGE("L", by="sets")(pair) == pytest.approx([100 * expected])
    assert ROUGE("L")(pair) == pytest.approx([100 * 2 * precision * recall / (precision + recall)])
    nothing = texts([("", "a"), ("a", ""), ("", ""), ("b", "a")])
    for n, by in itertools.product((1, 2, "L"), ("counts", "sets")):
        assert ROUGE(n, by=by)(nothing).tolist() == [0, 0, 0, 0]
    assert ROUGE(1)(texts([("漢字", "漢字")])).tolist() == [0]  # rouge-score sees no words there: ask for another rule
    assert ROUGE(1, words="words")(texts([("漢字", "漢字")])).tolist() == [100]


# --- variety --------------------------------------------------------------------------------------------------------------


def test_distinct_has_two_denominators():
    three = Texts(("a b a b", "a b", ""))  # pairs: ab ba ab | ab | nothing
    assert Distinct(2)(three) == pytest.approx(2 / 4)
    assert Distinct(2, "responses")(three) == pytest.approx(2 / 2)
    assert Distinct(1)(three) == pytest.approx(2 / 6)
    assert Distinct(4, "responses")(three) == pytest.approx(1 / 2)
    assert Distinct(3, "responses")(Texts(("a b c d e", " "))) == pytest.approx(3.0)  # can exceed 1
    assert Distinct(1)(Texts(("",))) == Distinct(1, "responses")(Texts(("",))) == 0.0


def test_unique_sentences_are_told_by_their_words():
    four = Texts(("Great tone.", "great  tone .", "Great tone!", ""))
    assert USR()(four) == pytest.approx(3 / 4)
    assert USR("space")(four) == 1.0
    assert USR()(Texts(("a",) * 5)) == pytest.approx(1 / 5)


# --- features -------------------------------------------------------------------------------------------------------------

FEATURES = ("tone", "strings", "sound quality", "price")


def told(generated: tuple[str, ...], features: tuple[str, ...] | None = None) -> Texts:
    return Texts(generated, features=features, all_features=FEATURES)


def test_features_worked_by_hand():
    written = told(
        ("Warm tone, good Price.", "the sound has quality", "great sound quality and tone", "strings stringset"),
        ("tone", "sound quality", "sound quality", "string"),
    )
    assert FMR()(written).tolist() == [1, 0, 1, 0]
    assert FCR()(written) == 1.0
    assert FCR()(told(("tone tone", "undertone"))) == pytest.approx(1 / 4)
    assert DIV()(written) == pytest.approx(1 / 6)  # of six pairs one shares a feature, tone
    assert DIV()(told(("tone price",) * 3)) == pytest.approx(2.0)
    assert DIV()(told(("tone",))) == 0.0
    assert FMR()(Texts(("warm tone",), features=("Tone",))).tolist() == [1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(["tone", "strings", "sound", "quality", "price", "and"]), max_size=6), min_size=2, max_size=7
    )
)
def test_feature_measures_equal_their_definitions_written_out(rows):
    written = told(tuple(map(" ".join, rows)))
    has = [{f for f in FEATURES if f" {f} " in f" {' '.join(row)} "} for row in rows]
    pairs = list(itertools.combinations(has, 2))
    assert DIV()(written) == pytest.approx(sum(len(a & b) for a, b in pairs) / len(pairs))
    assert FCR()(written) == pytest.approx(len(set.union(*has)) / len(FEATURES))
    for feature in FEATURES:
        asked = told(written.generated, (feature,) * len(rows))
        assert FMR()(asked).tolist() == [float(feature in there) for there in has]


# --- perplexity -----------------------------------------------------------------------------------------------------------


def test_perplexity_is_of_all_tokens_together():
    # Two texts: one token of probability 1/2, three of 1/8: (2 * 8^3)^(1/4).
    found = Likelihoods(np.array([math.log(1 / 2), 3 * math.log(1 / 8)]), np.array([1, 3]))
    assert PPL()(found) == pytest.approx((2 * 8**3) ** 0.25)
    uniform = Likelihoods(np.full(4, -5 * math.log(50)), np.full(4, 5))
    assert PPL()(uniform) == pytest.approx(50)
    assert PPL()(Likelihoods(np.array([-np.inf, -1.0]), np.array([2, 1]))) == np.inf


@pytest.mark.parametrize(
    ("total", "tokens", "message"),
    [
        ([1.0], [2], r"got 1\.0 for 2 tokens at place 0; sum log p, not -log p"),
        ([-1.0, np.nan], [2, 2], "got nan for 2 tokens at place 1"),
        ([-1.0, -2.0], [2, 0], r"got -2\.0 for 0 tokens at place 1"),
        ([-1.0], [2.0], "whole numbers of tokens"),
        ([0.0], [0], "at least one in all"),
        ([-1.0], [1, 2], "one sum and one count"),
    ],
)
def test_sums_that_are_no_log_likelihoods_are_refused(total, tokens, message):
    with pytest.raises(ContractError, match=message):
        Likelihoods(np.array(total), np.array(tokens))


# --- mistakes -------------------------------------------------------------------------------------------------------------


def test_what_a_measure_lacks_is_named():
    bare = Texts(("a",))
    for measure, lacks in ((BLEU(1), "references"), (ROUGE(1), "references"), (FMR(), "features"), (DIV(), "all features")):
        with pytest.raises(ContractError, match=f"needed {lacks} for {measure}, got none; give Texts"):
            measure(bare)
    with pytest.raises(ContractError, match="2 references, one for each text, got 1"):
        Texts(("a", "b"), ("a",))
    with pytest.raises(ContractError, match="text in features, got None at place 1; leave out pairs that lack it"):
        Texts(("a", "b"), features=("tone", None))
    with pytest.raises(ContractError, match="features of at least one word, got ' '"):
        FMR()(Texts(("a",), features=(" ",)))
    with pytest.raises(ContractError, match="at least one generated text"):
        Texts(())
    with pytest.raises(ContractError, match="at least one feature for FCR"):
        FCR()(Texts(("a",), all_features=()))
