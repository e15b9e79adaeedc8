"""Generated text is read as items or reported; nothing is guessed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmrs.decoding import Match, Titles, normalised
from lmrs.errors import ContractError

NAMES = [
    "Toy Story (1995)",
    "Matrix, The (1999)",
    "Heat (1995)",
    "Monsters, Inc. (2001)",
    "Sabrina (1954)",
    "Sabrina (1995)",
    "Seven (a.k.a. Se7en) (1995)",
    "Fast & Furious",
    "Amélie",
    "Lord of the Rings: The Fellowship of the Ring, The (2001)",
    "Lord of the Rings: The Two Towers, The (2002)",
    "Star Wars: Episode IV (1977)",
    "Star Wars: Episode VI (1983)",
    "(500) Days of Summer (2009)",
    "Crash",
    "Crash",
]


@pytest.fixture(scope="module")
def titles() -> Titles:
    return Titles(NAMES)


@pytest.mark.parametrize(
    ("title", "wanted"),
    [
        ("Toy Story (1995)", ("toy story", 1995)),
        ("Matrix, The (1999)", ("the matrix", 1999)),
        ("THE  MATRIX", ("the matrix", None)),
        ("Seven (a.k.a. Se7en) (1995)", ("seven", 1995)),
        ("Fast & Furious", ("fast and furious", None)),
        ("Ame\u0301lie", ("amelie", None)),
        ("Amélie", ("amelie", None)),
        ("Schindler's List", ("schindlers list", None)),
        ("Series [1998-2001]", ("series", 1998)),
        ("1984", ("1984", None)),
        ("(500)", ("500", None)),
        ("", ("", None)),
        ("日本", ("日本", None)),
    ],
)
def test_normalised(title: str, wanted: tuple[str, int | None]) -> None:
    assert normalised(title) == wanted


@pytest.mark.parametrize(
    ("text", "how", "items"),
    [
        ("Toy Story (1995)", "exact", (0,)),
        (' "Toy Story (1995)" ', "exact", (0,)),
        ("toy story", "normalised", (0,)),
        ("The Matrix", "normalised", (1,)),
        ("the matrix (1999)", "normalised", (1,)),
        ("Seven", "normalised", (6,)),
        ("Fast and Furious", "normalised", (7,)),
        ("AMELIE", "normalised", (8,)),
        ("Fast and Furious (2009)", "normalised", (7,)),  # the catalogue knows no year that could be another
        ("The Matrix (2003)", "none", ()),  # it is another film
        ("Sabrina (1954)", "exact", (4,)),
        ("sabrina [1995]", "normalised", (5,)),
        ("Sabrina", "ambiguous", (4, 5)),
        ("Crash", "ambiguous", (14, 15)),
        ("The Fellowship of the Ring", "fuzzy", (9,)),
        ("The Ring", "none", ()),
        ("Monster, Inc.", "fuzzy", (3,)),
        ("Lord of the Rings: The Two Tower", "fuzzy", (10,)),
        ("Star Wars: Episode V", "none", ()),  # a letter away from two others
        ("Star Wars - Epissode VI", "fuzzy", (12,)),
        ("Toy Story 2", "none", ()),
        ("Sabrinas", "ambiguous", (4, 5)),
        ("Casablanca (1942)", "none", ()),
        ("...", "none", ()),
        ("", "none", ()),
    ],
)
def test_find(titles: Titles, text: str, how: str, items: tuple[int, ...]) -> None:
    found = titles.find(text)
    assert (found.how, found.items) == (how, items), found
    assert found.item == (items[0] if how in ("exact", "normalised", "fuzzy") else None)


def test_likeness_is_dice_of_trigrams(titles: Titles) -> None:
    def grams(word: str) -> set[str]:
        padded = f"  {word} "
        return {padded[at : at + 3] for at in range(len(padded) - 2)}

    one, two = grams("monster inc"), grams("monsters inc")
    assert titles.find("Monster Inc").likeness == pytest.approx(2 * len(one & two) / (len(one) + len(two)))


def test_without_a_threshold_nothing_is_fuzzy() -> None:
    strict = Titles(NAMES, threshold=None)
    assert strict.find("Monster, Inc.") == Match("Monster, Inc.", "none", (), strict.find("Monster, Inc.").likeness)
    assert strict.find("monsters inc").how == "normalised"


def test_near_titles_are_offered_best_first_and_far_ones_are_not(titles: Titles) -> None:
    assert [NAMES[item] for item in titles.near("Monster Ink")] == ["Monsters, Inc. (2001)"]
    rings = titles.near("Lord of the Ring: Fellowship", least=0.4)
    assert [NAMES[item] for item in rings][:1] == ["Lord of the Rings: The Fellowship of the Ring, The (2001)"]
    assert titles.near("Lord of the Rings", n=1, least=0.4) in ((9,), (10,))
    assert titles.near("zzzz") == titles.near("") == ()


@pytest.mark.parametrize(("margin", "items"), [(0.02, (0,)), (0.3, (0, 1))])
def test_a_fuzzy_match_beats_the_next_by_a_margin(margin: float, items: tuple[int, ...]) -> None:
    found = Titles(["the long winter night", "the long winter light"], threshold=0.7, margin=margin)
    assert found.find("the long winter nights").items == items


def test_a_fuzzy_match_does_not_cross_a_year(titles: Titles) -> None:
    assert titles.find("Monster, Inc. (2001)").items == (3,)
    assert titles.find("Monster, Inc. (1986)").how == "none"


@pytest.mark.parametrize(
    ("text", "separator", "items", "unmatched", "ambiguous"),
    [
        ("1. Heat\n2. The Matrix\n3. Casablanca\n", None, (2, 1), ("Casablanca",), ()),
        ("1. Heat 2. The Matrix 3. heat", None, (2, 1), (), ()),
        ("- Toy Story (1995)\n* Sabrina", None, (0,), (), ("Sabrina",)),
        ("Heat, Monsters, Inc., Nothing at all, Toy Story", ", ", (2, 3, 0), ("Nothing at all",), ()),
        ("Matrix, The (1999), Heat (1995)", ", ", (1, 2), (), ()),
        ("(500) Days of Summer (2009)", None, (13,), (), ()),
        ("", None, (), (), ()),
        ("\n \n", ", ", (), (), ()),
    ],
)
def test_parse(titles: Titles, text: str, separator: str | None, items, unmatched, ambiguous) -> None:
    found = titles.parse(text, separator=separator)
    assert (found.items, found.unmatched, found.ambiguous) == (items, unmatched, ambiguous)


def test_the_report_counts_every_piece(titles: Titles) -> None:
    assert str(titles.parse("1. Heat\n2. Sabrina\n3. Nosuch")) == "3 pieces: 1 items, 1 ambiguous, 1 unknown"


words = st.text("abcd ,.&'()é1", max_size=12)


@given(st.lists(words, max_size=8), words)
@settings(max_examples=150)
def test_an_answer_is_an_item_that_has_earned_it(names: list[str], text: str) -> None:
    found = Titles(names).find(text)
    assert found.how in ("exact", "normalised", "fuzzy", "ambiguous", "none")
    assert all(0 <= item < len(names) for item in found.items)
    assert (len(found.items) == 1) if found.item is not None else (len(found.items) != 1 or found.how == "ambiguous")
    if found.how == "normalised":
        assert normalised(names[found.items[0]])[0] == normalised(text)[0] != ""
    if found.how == "fuzzy":
        assert found.likeness >= 0.8


@given(st.lists(words.map(str.strip), min_size=1, max_size=8, unique_by=lambda name: normalised(name)[0]))
def test_every_title_finds_its_own_item(names: list[str]) -> None:
    found = Titles(names)
    for item, name in enumerate(names):
        if normalised(name)[0]:
            assert found.find(name).item == item


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.5}, {"margin": -0.1}])
def test_settings_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ContractError, match="threshold in"):
        Titles(NAMES, **options)
