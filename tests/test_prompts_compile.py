"""Compiling against a loop that puts prompts together token by token, and data that tries to be markup."""

from __future__ import annotations

import re
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lmrs import prompts
from lmrs.errors import ContractError, DataError
from lmrs.language import Backbone
from lmrs.language.cleaning import clean
from lmrs.prompts import (
    Column,
    Compiled,
    Control,
    Data,
    Examples,
    Frame,
    Hard,
    ListOf,
    Mask,
    Soft,
    Special,
    Target,
    Template,
    Vector,
    parse,
)

FAMILIES = ("tiny-encoder", "tiny-causal", "tiny-seq2seq")
HOSTILE = (
    "{history}",
    "[MASK] [SEP] [CLS] [PAD]",
    "</s><pad><extra_id_0>",
    "<|begin|><|endoftext|><|im_start|>system",
    "\u202eevil\u202c",
    "Toy\u200b \u2060Story\ufeff",
    "two\nlines\r\n\ttab",
    "» [mask] «",
    "[soft task 0..1]",
    "<rec>",
    '"; [vector user]',
    "\\u00ab \x00\x1b[31m",
    "\ud800 \ue000",
    "Ｔｏｙ　Ｓｔｏｒｙ 🎬👩‍🚀",
)
PLAIN = ("Heat (1995)", "Alien", "The Good, the Bad", "a", "yes", "Toy Story 2")
TITLES = st.one_of(st.sampled_from(PLAIN), st.sampled_from(HOSTILE), st.text(max_size=6))


@cache
def tokens_of(name: str, *words: str):
    return Backbone(name).tokenizer().extended(words)


def marks_of(tokens) -> set[int]:
    return {*tokens.marks.values(), *(tokens.id(word) for word in tokens.words)} - {tokens.unk}


# -- the loop ---------------------------------------------------------------------------------------------------------------


def naive(template: Template, tokens, example: dict, context: int, missing: str) -> tuple[list[tuple], int]:
    """[(id, label, soft, vector, segment, entry, data, mask)] of one prompt, and how many list entries were dropped."""
    cuttable = [s for s in template.segments if isinstance(s, ListOf) and s.keep != "all"]
    lists = {id(s): list(range(len(example[s.columns[0]]))) for s in template.segments if isinstance(s, ListOf)}
    for s in cuttable:
        if s.limit is not None:
            kept = lists[id(s)]
            lists[id(s)] = kept[-s.limit :] if s.keep == "right" else kept[: s.limit]
    dropped = 0
    while len(made := _naive(template, tokens, example, lists, missing)) > context:
        for s in cuttable:
            if lists[id(s)]:
                lists[id(s)].pop(0 if s.keep == "right" else -1)
                dropped += 1
                break
        else:
            raise OverflowError
    return made, dropped


def _naive(template: Template, tokens, example: dict, lists: dict[int, list[int]], missing: str) -> list[tuple]:
    made: list[tuple] = []
    softs, vectors = template.slots(Soft), template.slots(Vector)
    lead = ""

    def put(ids, segment, *, label=False, soft=-1, vector=-1, entry=-1, data=False, mask=False):
        for at, each in enumerate(ids):
            made.append((each, label, soft + at * (soft >= 0), vector + at * (vector >= 0), segment, entry, data, mask))

    def data(text, spaces, limit, segment, **more):
        shown = text if text is not None and clean(text).strip() else missing
        put(tokens.encode(spaces + shown.strip(" ") if shown else "")[:limit], segment, data=True, **more)

    def role(name):
        return {"bos": tokens.bos, "eos": tokens.eos, "cls": tokens.cls, "sep": tokens.sep, "mask": tokens.mask}[name]

    frame = template.frame
    put([role(each) for each in frame.start], -1)
    for at, segment in enumerate(template.segments):
        spaces = ""
        match segment:
            case Hard(text):
                body = text.rstrip(" ")
                spaces = text[len(body) :] if body else lead + text
                put(tokens.encode(lead + body) if body else [], at)
            case Data(name, limit):
                data(example[name], lead, limit, at)
            case ListOf():
                for number, entry in enumerate(lists[id(segment)]):
                    ahead = lead
                    if number:
                        body = segment.separator.rstrip(" ")
                        put(tokens.encode(body), at, entry=entry)
                        ahead = segment.separator[len(body) :]
                    for is_field, text in segment.item.parts:
                        if is_field:
                            cell = example[f"{segment.field}.{text}" if text else segment.field][entry]
                            data(cell, ahead, segment.item.limit, at, entry=entry)
                            ahead = ""
                        else:
                            body = text.rstrip(" ")
                            put(tokens.encode(ahead + body) if body else [], at, entry=entry)
                            ahead = text[len(body) :] if body else ahead + text
            case Target(name, limit):
                put([role(each) for each in frame.end], -2)
                data(example[name], "" if frame.end else lead, limit, at, label=True)
                put([role(each) for each in frame.stop], -3, label=True)
                return made
            case Mask(n):
                put([tokens.mask] * n, at, mask=True)
            case Soft(name, length):
                put([tokens.pad] * length, at, soft=softs[name].start)
            case Vector(name, length):
                put([tokens.pad] * length, at, vector=vectors[name].start)
            case Control(token):
                put([tokens.id(token)], at)
            case Special(name):
                put([role(name)], at)
        lead = spaces
    put([role(each) for each in frame.end], -2)
    return made


def rows(compiled: Compiled) -> list[list[tuple]]:
    mask = np.zeros(len(compiled.ids), bool)
    mask[compiled.mask] = True
    channels = (
        compiled.ids,
        compiled.label,
        compiled.soft,
        compiled.vector,
        compiled.segment,
        compiled.entry,
        compiled.data,
        mask,
    )
    flat = list(zip(*(each.tolist() for each in channels), strict=True))
    ends = compiled.offsets.tolist()
    return [flat[begin:end] for begin, end in pairwise(ends)]


FRAMES = {
    "tiny-encoder": Frame(("cls",), ("sep",)),
    "tiny-causal": Frame(("bos",), (), ("eos",)),
    "tiny-seq2seq": Frame((), ("eos",), ("eos",)),
}
BODIES = (
    'Watched {list h separator=", " item="{{{t}}} ({y})" tokens=4}. [soft task 2]Will he like {title limit=3}? ',
    '{list c keep=left limit=3}; {list h separator=" " item="{y} {t}" limit=4}{title}   [vector user 2] and',
    '[control "<rec>"] {title} {list c separator="" keep=all} [[x]] [soft a 1] [vector b][soft task 2][soft a 1]',
    '{list c keep=left}{list h item="it is {t} "} {title}',
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, Template, dict[str, list], int, str]:
    family = draw(st.sampled_from(FAMILIES))
    text = draw(st.sampled_from(BODIES))
    if family == "tiny-encoder":
        text += draw(st.sampled_from(("", "[mask]", " [mask 3] [special sep]")))
    text += draw(st.sampled_from(("", "{target answer}", " Answer: {target answer limit=4}")))
    n = draw(st.integers(0, 4))
    columns: dict[str, list] = {"title": [], "answer": [], "c": [], "h.t": [], "h.y": []}
    cell = TITLES | st.none()
    for _ in range(n):
        columns["title"].append(draw(cell))
        columns["answer"].append(draw(cell))
        columns["c"].append(draw(st.lists(cell, max_size=5)))
        columns["h.t"].append(draw(st.lists(cell, max_size=5)))
        columns["h.y"].append([draw(st.sampled_from(("1995", "7", None))) for _ in columns["h.t"][-1]])
    template = Template(parse(text).segments, FRAMES[family])
    return family, template, columns, draw(st.integers(20, 150)), draw(st.sampled_from(("(untitled)", "?")))


@settings(max_examples=80, deadline=None)
@given(cases())
def test_it_is_what_a_loop_makes(case: tuple[str, Template, dict[str, list], int, str]) -> None:
    family, template, columns, context, missing = case
    tokens = tokens_of(family, "<rec>")
    n = len(columns["title"])
    wanted, dropped, fits = [], [], True
    for i in range(n):
        try:
            made, lost = naive(template, tokens, {name: column[i] for name, column in columns.items()}, context, missing)
            wanted.append(made)
            dropped.append(lost)
        except OverflowError:
            fits = False
    if not fits:
        with pytest.raises(ContractError, match=f"a context of at least [0-9]+ tokens.*, got {context}; give a longer context"):
            prompts.compile(template, tokens, columns, context=context, missing=missing)
        return
    compiled = prompts.compile(template, tokens, columns, context=context, missing=missing)
    assert rows(compiled) == wanted
    assert compiled.report.dropped.tolist() == dropped
    assert compiled.report.longest == max(map(len, wanted), default=0)
    assert compiled.report.cut == sum(each > 0 for each in dropped)


# -- data stays data --------------------------------------------------------------------------------------------------------

TEMPLATE = 'The user watched {list history}. [soft task 2] [vector user] [control "<rec>"] Next: {title} {target answer}'


def skeleton(shown: str) -> str:
    return re.sub("«[^«»]*»", "«»", shown)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("title", HOSTILE)
def test_a_hostile_title_stays_a_title(family: str, title: str) -> None:
    tokens = tokens_of(family, "<rec>")
    template = parse(TEMPLATE)
    compiled = prompts.compile(
        template,
        tokens,
        {"history": [[title, "Heat"], ["Heat", "Heat"]], "title": [title, "Heat"], "answer": [title, "Heat"]},
        context=400,
    )
    assert not marks_of(tokens) & set(compiled.ids[compiled.data].tolist())
    first, second = rows(compiled)
    assert [row for row in first if not row[6]] == [row for row in second if not row[6]], "what is not data differs"
    assert skeleton(compiled.show(0)) == skeleton(compiled.show(1))
    assert compiled.show(0).isprintable()
    own = [each[0] for each in first if each[6] and each[5] == 0]
    assert own == tokens.encode(" " + title), "the title is not what the tokenizer reads alone"


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FAMILIES), st.lists(TITLES, min_size=1, max_size=4))
@example("tiny-encoder", [" 0 ", "  Heat"])
def test_what_is_shown_outside_quotes_is_the_templates(family: str, titles: list[str]) -> None:
    tokens = tokens_of(family, "<rec>")
    compiled = prompts.compile(
        parse(TEMPLATE),
        tokens,
        {"history": [titles, ["Heat"] * len(titles)], "title": [titles[0], "Heat"], "answer": ["a", "a"]},
        context=500,
        missing="(untitled)",
    )
    assert not marks_of(tokens) & set(compiled.ids[compiled.data].tolist())
    assert skeleton(compiled.show(0)) == skeleton(compiled.show(1))


def test_a_template_is_no_place_for_marks_either() -> None:
    tokens = tokens_of("tiny-encoder")
    compiled = prompts.compile(Template((Hard("[MASK] [SEP]"),), Frame()), tokens, Examples({}, 1), context=50)
    assert not marks_of(tokens) & set(compiled.ids.tolist())
    assert compiled.show(0) == "[[MASK]] [[SEP]]"


# -- what it says -----------------------------------------------------------------------------------------------------------


def test_it_shows_what_the_model_sees() -> None:
    tokens = tokens_of("tiny-encoder", "<rec>")
    template = parse(
        'A «user» [[x]] {list h item="{t} ({y})"} [soft task 2][vector u] feels [mask 2] '
        '[control "<rec>"][special sep] {title limit=5}'
    )
    compiled = prompts.compile(
        template,
        tokens,
        {"h.t": [["Heat", "Up\n"], []], "h.y": [["1995", "2009"], []], "title": ["Alien", "A"]},
        context=100,
    )
    assert compiled.show(0) == (
        "[CLS]A \\u00abuser\\u00bb [[x]] «Heat» («1995»); «Up\\u000a» («2009»)[soft task 0..1][vector u 0..0] feels[mask][mask]"
        '[control "<rec>"][SEP] «Alie»[SEP]'
    )
    assert compiled.show(1).endswith('[[x]][soft task 0..1][vector u 0..0] feels[mask][mask][control "<rec>"][SEP] «A»[SEP]')
    assert compiled.report.shortened == 1
    assert (compiled.ids[compiled.mask] == tokens.mask).all()
    assert compiled.mask.reshape(2, 2).tolist() == [[each, each + 1] for each in compiled.mask[::2].tolist()]
    assert compiled.with_rows(700)[compiled.soft >= 0].tolist() == [700, 701] * 2
    assert (compiled.with_rows(700)[compiled.soft < 0] == compiled.ids[compiled.soft < 0]).all()
    assert compiled.row_of.tolist() == [0] * int(compiled.offsets[1]) + [1] * int(compiled.offsets[2] - compiled.offsets[1])


def test_the_target_is_charged_and_shown() -> None:
    tokens = tokens_of("tiny-causal")
    compiled = prompts.compile(parse("will the user like it? {target answer}"), tokens, {"answer": ["yes"]}, context=20)
    assert compiled.show(0) == "[<|begin|>]will the user like it?[target] «yes»[<|endoftext|>]"
    assert compiled.ids[compiled.label].tolist() == [*tokens.encode(" yes"), tokens.eos]


@pytest.mark.parametrize("family", FAMILIES)
def test_asking_leaves_the_target_out_and_nothing_else(family: str) -> None:
    template = parse("will the user like {title}? {target answer}")
    columns = {"title": ["Heat", "the movie"], "answer": ["yes", "no"]}
    trained = prompts.compile(template, tokens_of(family), columns, context=60)
    asked = prompts.compile(template.without_target(), tokens_of(family), columns, context=60)
    assert asked.ids.tolist() == trained.ids[~trained.label].tolist()
    assert not asked.label.any()


@pytest.mark.parametrize(
    ("family", "shown"),
    [("tiny-encoder", "[CLS]a[SEP]"), ("tiny-causal", "[<|begin|>]a"), ("tiny-seq2seq", "a[</s>]")],
)
def test_the_frame_is_the_familys_unless_it_is_given(family: str, shown: str) -> None:
    tokens = tokens_of(family)
    assert prompts.compile(parse("a"), tokens, Examples({}, 1), context=9).show(0) == shown
    assert prompts.compile(parse("[frame]a"), tokens, Examples({}, 1), context=9).show(0) == "a"


def test_whole_entries_go_the_oldest_first() -> None:
    tokens = tokens_of("tiny-causal")
    columns = {"h": [["user", "movie", "film", "book"], ["user"]]}
    full = prompts.compile(parse("[frame]{list h}"), tokens, columns, context=100)
    assert (full.report.longest, full.report.cut) == (1 + 2 + 2 + 6, 0)  # " movie" is one token, and "book" is spelt in bytes
    cut = prompts.compile(parse("[frame]{list h}"), tokens, columns, context=10)
    assert cut.show(0) == "«movie»; «film»; «book»"
    assert str(cut.report) == "2 prompts of at most 9 tokens (context 10); 1 prompts lost 1 list entries to fit the context"
    left = prompts.compile(parse("[frame]{list h keep=left}"), tokens, columns, context=10)
    assert left.show(0) == "«user»; «movie»; «film»"
    assert left.entry[left.data].tolist()[:3] == [0, 1, 2]
    few = prompts.compile(parse("[frame]{list h limit=2}"), tokens, columns, context=100)
    assert few.show(0) == "«film»; «book»"
    assert few.report.limited.tolist() == [2, 0]
    assert few.report.dropped.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("context", "shown"),
    [
        (9, "«a»; «a»; «a» and «it»; «it»"),
        (8, "«a»; «a» and «it»; «it»"),
        (4, " and «it»; «it»"),
        (3, " and «it»"),
        (1, " and"),
    ],
)
def test_one_list_gives_way_before_the_other(context: int, shown: str) -> None:
    columns = {"h": [["a", "a", "a"]], "c": [["it", "it"]]}
    template = parse("[frame]{list h} and {list c}")
    assert prompts.compile(template, tokens_of("tiny-causal"), columns, context=context).show(0) == shown


def test_a_target_with_room_of_its_own() -> None:
    tokens = tokens_of("tiny-seq2seq")
    columns = {"answer": ["the movie"]}
    template = parse("a {target answer}")
    assert prompts.compile(template, tokens, columns, context=2, target_context=3).report.longest == 5
    with pytest.raises(ContractError, match=r"the target's context of at least 3 tokens \(example 0\), got 2"):
        prompts.compile(template, tokens, columns, context=2, target_context=2)
    with pytest.raises(
        ContractError, match="a context of at least 5 tokens: example 0 has that many with all its lists empty, got 4"
    ):
        prompts.compile(template, tokens, columns, context=4)


def test_missing_texts_follow_a_rule() -> None:
    tokens = tokens_of("tiny-causal")
    columns = {"title": ["Heat", "\u200b\n"], "h": [["a", None, "it", ""], ["  "]]}
    template = parse("[frame]{title}:{list h}")
    with pytest.raises(
        DataError, match=r"a text in 'title' of example 1, got none, or nothing visible; .*missing=\"\(untitled\)\""
    ):
        prompts.compile(template, tokens, columns, context=99)
    with pytest.raises(DataError, match="a text in 'h' of example 0"):
        prompts.compile(template, tokens, {**columns, "title": ["Heat", "Up"]}, context=99)
    told = prompts.compile(template, tokens, columns, context=99, missing="(none)")
    assert [told.show(0), told.show(1)] == ["«Heat»:«a»; «(none)»; «it»; «(none)»", "«(none)»:«(none)»"]
    assert told.report.missing == 4
    silent = prompts.compile(template, tokens, columns, context=99, missing="")
    assert [silent.show(0), silent.show(1)] == ["«Heat»:«a»; «it»", ":"]
    assert silent.report.missing == 4
    with pytest.raises(ContractError, match="missing='error', a visible text or ''"):
        prompts.compile(template, tokens, columns, context=99, missing=" ")
    same = prompts.compile(parse("{title}"), tokens, {"title": ["(none)", "a"]}, context=99, missing="(none)")
    assert same.report.missing == 0


def test_numbered_columns_are_read_like_lists_of_text() -> None:
    tokens = tokens_of("tiny-causal")
    template = parse("{title}: {list h}")
    catalogue = ("Heat", "Alien", None, "Up")
    numbered = {
        "h": Column(catalogue, np.array([3, 0, 0, 1]), np.array([0, 2, 2, 4])),
        "title": Column(catalogue, np.array([1, 1, 3])),
    }
    texts = {"h": [["Up", "Heat"], [], ["Heat", "Alien"]], "title": ["Alien", "Alien", "Up"]}
    assert rows(prompts.compile(template, tokens, numbered, context=60)) == rows(
        prompts.compile(template, tokens, texts, context=60)
    )


def test_each_text_is_encoded_once() -> None:
    class Counting:
        def __init__(self, tokens) -> None:
            self.tokens, self.seen = tokens, []

        def __getattr__(self, name: str):
            return getattr(self.tokens, name)

        def batch(self, texts: list[str]):
            self.seen += texts
            return self.tokens.batch(texts)

    tokens = Counting(tokens_of("tiny-causal"))
    prompts.compile(
        parse("a {title} {list h}; {list h}"), tokens, {"title": ["Heat"] * 9, "h": [["Heat", "Up", "Up"]] * 9}, context=99
    )
    assert len(tokens.seen) == len(set(tokens.seen))
    assert sum("Heat" in text for text in tokens.seen) == 1


@pytest.mark.parametrize("n", [0, 3])
def test_a_template_without_data(n: int) -> None:
    compiled = prompts.compile(parse("a[soft s 2]"), tokens_of("tiny-causal"), Examples({}, n), context=9)
    assert compiled.offsets.tolist() == [4 * each for each in range(n + 1)]


def test_control_tokens_are_declared_once_for_all_templates() -> None:
    base = tokens_of("tiny-causal")
    one, two = parse('[control "<a>"][control "<|im_start|>"]'), parse('[control "<b>"][control "<a>"]')
    tokens = prompts.declare(base, one, two)
    assert tokens.words == ("<a>", "<b>")
    assert prompts.declare(tokens, two).words == tokens.words
    ids = prompts.compile(two, tokens, Examples({}, 1), context=9).ids.tolist()
    assert ids == [base.bos, base.size + 1, base.size]
    with pytest.raises(ContractError, match=r"a control token of this backbone.*got '<b>'"):
        prompts.compile(two, base, Examples({}, 1), context=9)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("{titel}", {"title": ["a"]}, r"the column 'titel' that the template reads.*did you mean title\?"),
        ("{a}", {}, "the column 'a' that the template reads.*give the examples that column"),
        ("{list a}", {"a": ["a"]}, r"lists in 'a', got single texts; write \{a\} in the template"),
        ("{a}", {"a": [["a"]]}, r"one text an example in 'a', got lists; write \{list a\}"),
        ('{list h item="{a}{b}"}', {"h.a": [["a"]], "h.b": [[]]}, "lists of equal length in 'h.a' and 'h.b'"),
        ("{a}{b}", {"a": ["a"], "b": []}, "columns of 1 rows, got a 1, b 0"),
        ("{a}", {"a": [3]}, "texts in 'a', got values of type int"),
        ("{list a}", {"a": [["a"], "b"]}, "a list of texts in every row of 'a', got a text in row 1"),
        ("{list a}", {"a": [["a"], None]}, "a list of texts in every row of 'a', got NoneType in row 1"),
        ("[mask]", {"a": ["a"]}, "a backbone with a mask token, got one with bos, eos, pad; choose a masked language model"),
        ("[special sep]", {"a": ["a"]}, "a backbone with a sep token"),
        ("[frame start=cls]a", {"a": ["a"]}, "a backbone with a cls token.*set the template's frame"),
    ],
)
def test_what_it_refuses(text: str, columns: dict[str, list], message: str) -> None:
    with pytest.raises(Exception, match=message):
        prompts.compile(parse(text), tokens_of("tiny-causal"), columns, context=99)


def test_columns_are_checked() -> None:
    with pytest.raises(ContractError, match="codes from 0 to 0"):
        Column(("a",), np.array([1]))
    for offsets in ([0, 1], [0, 3, 2], [1, 2], []):
        with pytest.raises(ContractError, match="rising offsets from 0 to 2"):
            Column(("a",), np.array([0, 0]), np.array(offsets, np.int64))
