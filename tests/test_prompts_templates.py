"""Templates: the notation reads what it writes, and refuses what it does not know."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmrs.errors import ContractError
from lmrs.prompts import Control, Data, Frame, Hard, Item, ListOf, Mask, Soft, Special, Target, Template, Vector, parse

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.\-]{0,8}", fullmatch=True)
TEXTS = st.text(max_size=12) | st.text('{}[]"\\ =limit«»', max_size=12)
LIMITS = st.none() | st.integers(1, 99)


@st.composite
def items(draw: st.DrawFn) -> Item:
    literal = st.text('ab {}"[]\\', max_size=5).map(lambda text: text.replace("{", "{{").replace("}", "}}"))
    fields = draw(st.lists(st.just("") | NAMES, min_size=1, max_size=3))
    return Item(draw(literal) + "".join("{" + name + "}" + draw(literal) for name in fields), draw(LIMITS))


@st.composite
def lists(draw: st.DrawFn) -> ListOf:
    limit = draw(LIMITS)
    keep = draw(st.sampled_from(("right", "left") if limit else ("right", "left", "all")))
    return ListOf(draw(NAMES), draw(TEXTS), draw(items()), limit, keep)


ROLES = st.sampled_from(["bos", "eos", "cls", "sep", "pad", "mask"])
FRAMES = st.builds(Frame, *[st.lists(ROLES, max_size=2).map(tuple)] * 3)
SEGMENTS = st.one_of(
    st.builds(Hard, TEXTS),
    st.builds(Data, NAMES, LIMITS),
    lists(),
    st.builds(Mask, st.integers(1, 12)),
    st.builds(Soft, NAMES, st.just(3)),
    st.builds(Vector, NAMES, st.just(2)),
    st.builds(Control, st.text(min_size=1, max_size=8)),
    st.builds(Special, ROLES),
)


@st.composite
def templates(draw: st.DrawFn) -> Template:
    segments = [Mask(), *draw(st.lists(SEGMENTS, max_size=6))]
    segments += [Target(draw(NAMES), draw(LIMITS))] if draw(st.booleans()) else []
    return Template(tuple(segments), draw(st.none() | FRAMES))


@given(templates())
def test_the_notation_reads_what_it_writes(template: Template) -> None:
    assert parse(str(template)) == template
    assert eval(repr(template)) == template
    assert str(parse(str(template))) == str(template)


def test_every_kind_of_segment_is_written_like_this() -> None:
    text = (
        '[frame start=cls end=sep,sep]The user {{x}} watched {list history separator=" -> " item="{title} ({year})" '
        "tokens=9 limit=20 keep=left} "
        '[[1]] [mask 2] {title limit=10} [soft task 5][vector user][vector item 2][control "<rec>"][special sep] '
        "{target answer limit=3}"
    )
    assert parse(text) == Template(
        (
            Hard("The user {x} watched "),
            ListOf("history", separator=" -> ", item=Item("{title} ({year})", 9), limit=20, keep="left"),
            Hard(" [1] "),
            Mask(2),
            Hard(" "),
            Data("title", 10),
            Hard(" "),
            Soft("task", 5),
            Vector("user"),
            Vector("item", 2),
            Control("<rec>"),
            Special("sep"),
            Hard(" "),
            Target("answer", 3),
        ),
        Frame(start=("cls",), end=("sep", "sep")),
    )
    assert str(parse(text)) == text


def test_a_field_may_be_called_list_or_mask() -> None:
    assert parse("{list}{list list}{mask limit=3}").segments == (Data("list"), ListOf("list"), Data("mask", 3))


def test_neighbouring_words_are_one_segment() -> None:
    assert Template((Hard("a"), Hard(""), Hard("b"), Mask(), Hard(""))) == Template((Hard("ab"), Mask()))


def test_slots_of_one_name_share_their_places() -> None:
    template = parse("[soft a 2][soft b 3][soft a 2][vector a]")
    assert template.slots(Soft) == {"a": slice(0, 2), "b": slice(2, 5)}
    assert template.slots(Vector) == {"a": slice(0, 1)}


def test_columns_and_controls_come_once_in_order() -> None:
    template = parse('{b}[control "<y>"]{list a item="{t}{u}{t}"}{b}[control "<x>"][control "<y>"]{target c}')
    assert template.columns == ("b", "a.t", "a.u", "c")
    assert template.controls == ("<y>", "<x>")


def test_item_patterns_are_parts_and_nothing_else() -> None:
    assert Item("{{{title}}} ({year})").parts == ((False, "{"), (True, "title"), (False, "} ("), (True, "year"), (False, ")"))
    for pattern in ("{title!r}", "{title:>10}", "{0[a]}", "{a.__class__()}"):
        with pytest.raises(ContractError, match="needed a field of letters"):
            Item(pattern)
    with pytest.raises(ContractError, match=r"braces in pairs .* write \{\{ or \}\}"):
        Item("{a} }")
    with pytest.raises(ContractError, match=r"a pattern with a field such as \{\}"):
        Item("title")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {title", r"brackets in pairs in a template, got '\{title' at character 3"),
        ("a ] b", r"brackets in pairs in a template, got '\] b' at character 3; .* twice for a literal one"),
        ("[msak]", r"a kind of slot, got \[msak\]; did you mean mask\?"),
        ("[SEP]", r"a kind of slot, got \[SEP\]"),
        ("[sep]", r"got \[sep\]; write \[special sep\]"),
        ("[]", r"a kind of slot in brackets, got \[\]"),
        ("{}", r"\{field\}, \{list field\} or \{target field\}, got \{\}"),
        ("{lst history}", r"\{field\}, \{list field\} or \{target field\}, got \{lst history\}"),
        ("{title lmit=3}", r"got 'lmit' in \{title lmit=3\}; did you mean limit\?"),
        ("{title limit=3 limit=4}", r"each once, got"),
        ("{title limit=x}", r"a whole number for limit, got x"),
        ("{title limit=0}", r"a limit of at least 1, got 0"),
        ("{1title}", r"a field of letters, digits"),
        ("{list h keep=rigth}", r"got 'rigth'; did you mean right\?"),
        ("{list h keep=all limit=3}", r"keep='left' or 'right' beside a limit"),
        ("[soft task]", r"2 words after 'soft', got \[soft task\]"),
        ("[soft task 0]", r"a length of at least 1"),
        ("[mask 0]", r"n of at least 1"),
        ("[mask 1 2]", r"0 to 1 words after 'mask'"),
        ('[control ""]', r"the spelling of a control token, got an empty text"),
        ('[control "\\x"]', r"a JSON text for the token"),
        ("[special bot]", r"the role of a special token, got 'bot'; did you mean bos\?"),
        ("[mask]a[frame]", r"\[frame ...\] at the start of a template, got it at character 8"),
        ("{target a} [mask]", r"at most one Target, as the last segment"),
        ("[soft a 2][soft a 3]", r"one length for the slot 'a'"),
        ("", r"at least one segment"),
    ],
)
def test_what_it_refuses(text: str, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        parse(text)
