"""Measures of generated text. `BLEU(4)(texts)` gives one number, `ROUGE("L")(texts)` one a text; `str(BLEU(4)) == "BLEU-4"`.

Two quantities called BLEU and two called ROUGE are here; each has its own name, and the rule that cuts text into
words is part of the value (see `words.py`). Where two conventions differ the option stands in brackets: `Distinct-2[responses]`.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

import numpy as np

from lmrs.errors import ContractError, UserError, did_you_mean
from lmrs.measures.words import WORDS, common_subsequence, grams, overlap


@dataclass(frozen=True, eq=False)
class Texts:
    """What a system wrote, and what it is compared with; n >= 1 texts.

    generated: as a person would read them, end marks removed. references: one for each, or None.
    features: the aspect that each text should speak of ("strings", "sound quality"), or None.
    all_features: every feature of the data set, or None.

    Raises ContractError for lists of different lengths and for entries that are no text.
    """

    generated: tuple[str, ...]
    references: tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    all_features: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not len(self.generated):
            raise ContractError(needed="at least one generated text", came="none")
        for name, column in (("references", self.references), ("features", self.features)):
            if column is not None and len(column) != len(self.generated):
                raise ContractError(needed=f"{len(self.generated)} {name}, one for each text", came=str(len(column)))
        for name in ("generated", "references", "features", "all_features"):
            column = getattr(self, name)
            for at, entry in enumerate(column or ()):
                if not isinstance(entry, str):
                    raise ContractError(
                        needed=f"text in {name}", came=f"{entry!r} at place {at}", remedy="leave out pairs that lack it"
                    )

    def __len__(self) -> int:
        return len(self.generated)

    def needed(self, name: str, measure: object) -> tuple[str, ...]:
        """references, features or all_features. Raises ContractError if they were not given."""
        column: tuple[str, ...] | None = getattr(self, name)
        if column is None:
            raise ContractError(needed=f"{name.replace('_', ' ')} for {measure}", came="none", remedy=f"give Texts({name}=...)")
        return column


class TextMeasure(ABC):
    """A value that judges Texts. Fields named in `choices` are options; `n`, where there is one, is the length of n-grams."""

    reads: ClassVar[str] = "texts"
    per_query: ClassVar[bool] = False
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"words": tuple(WORDS)}

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name == "n":
                self._check_length(value)
            elif value not in self.choices[field.name]:
                raise ContractError(
                    needed=f"{type(self).__name__} with {field.name} one of {', '.join(self.choices[field.name])}",
                    came=repr(value),
                )

    def _check_length(self, n: object) -> None:
        if not (isinstance(n, int) and not isinstance(n, bool) and n >= 1):
            raise ContractError(
                needed=f"n >= 1 for {type(self).__name__}", came=repr(n), remedy=f"such as {type(self).__name__}(2)"
            )

    def __str__(self) -> str:
        length, options = "", []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if field.name == "n":
                length = f"-{value}"
            elif value != field.default:
                options.append(value)
        return type(self).__name__ + length + (f"[{','.join(options)}]" if options else "")

    @abstractmethod
    def __call__(self, texts: Texts) -> np.ndarray | float:
        """float64[n] where `per_query`, else one number for the corpus."""


@dataclass(frozen=True)
class BLEU(TextMeasure):
    """Corpus BLEU with one reference (Papineni et al. 2002), in 0..100: one number, not one a text.

    100 BP exp(1/n sum_{k<=n} log p_k), with p_k the clipped matches over the k-grams of the whole corpus, and BP = 1 if the
    c generated words are more than the r of the references, else exp(1 - r/c).

    words: "13a" is sacrebleu's default; "space" on text tokenised before is what PETER and PEPLER report.
    smooth: "none": 0 if any order has no match, as in those papers. "exp": sacrebleu's default, which halves the weight of each
        further order without a match (Chen & Cherry 2014, method 3); the two agree where every order matches.
    """

    n: int = 4
    words: str = "13a"
    smooth: str = "none"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"words": tuple(WORDS), "smooth": ("none", "exp")}

    @property
    def signature(self) -> str:
        """What to print beside the number, in sacrebleu's words."""
        return f"nrefs:1|case:mixed|eff:no|tok:{self.words}|smooth:{self.smooth}|order:{self.n}"

    def __call__(self, texts: Texts) -> float:
        cut = WORDS[self.words]
        written = [cut(text) for text in texts.generated]
        wanted = [cut(text) for text in texts.needed("references", self)]
        c, r = sum(map(len, written)), sum(map(len, wanted))
        logs, halved = 0.0, 1.0
        for k in range(1, self.n + 1):
            matches = sum(overlap(Counter(grams(a, k)), Counter(grams(b, k))) for a, b in zip(written, wanted, strict=True))
            total = sum(max(len(words) - k + 1, 0) for words in written)
            if not total or (not matches and (self.smooth == "none" or k == 1)):
                return 0.0
            if not matches:
                halved *= 2.0
            logs += math.log((matches or 1.0 / halved) / total)
        return 100.0 * _brevity(c, r) * math.exp(logs / self.n)


@dataclass(frozen=True)
class SentenceBLEU(TextMeasure):
    """BLEU of order n alone, text by text, in 0..100: 100 BP p_n, as CRSLab and UniCRS report "BLEU-n" (their mean is taken).

    It is NLTK's sentence BLEU with weight 1 on order n. It is another quantity than BLEU(n), and usually a larger one.
    float64[n]; 0 for a text with no match.
    """

    n: int = 4
    words: str = "words"
    per_query: ClassVar[bool] = True

    def __call__(self, texts: Texts) -> np.ndarray:
        cut, found = WORDS[self.words], []
        for generated, reference in zip(texts.generated, texts.needed("references", self), strict=True):
            a, b = cut(generated), cut(reference)
            mine, theirs = Counter(grams(a, self.n)), Counter(grams(b, self.n))
            found.append(_brevity(len(a), len(b)) * overlap(mine, theirs) / max(mine.total(), 1))
        return 100.0 * np.array(found)


def _brevity(c: int, r: int) -> float:
    return 0.0 if not c else min(1.0, math.exp(1.0 - r / c))


@dataclass(frozen=True)
class ROUGE(TextMeasure):
    """ROUGE-1, -2, ... (n-grams) or ROUGE("L") (longest common subsequence), F-measure (Lin 2004), text by text, in 0..100.

    F = 2 P R / (P + R) with P = matches / n-grams generated, R = matches / n-grams of the reference; for "L" the matches are the
    length of the longest common subsequence. float64[n]; 0 for a text without words.

    by: "counts": n-grams are counted with multiplicity: the rouge-score package without stemming. "sets": each n-gram counts
        once, and "L" weighs by beta = P / R, F = (1 + beta^2) R P / (R + beta^2 P): the numbers of PETER and its successors.
    words: "latin" is rouge-score's rule; for texts in other scripts take "words".
    """

    n: int | str = 1
    by: str = "counts"
    words: str = "latin"
    per_query: ClassVar[bool] = True
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"words": tuple(WORDS), "by": ("counts", "sets")}

    def _check_length(self, n: object) -> None:
        if n != "L":
            super()._check_length(n)

    def __call__(self, texts: Texts) -> np.ndarray:
        cut = WORDS[self.words]
        pairs = zip(texts.generated, texts.needed("references", self), strict=True)
        return 100.0 * np.array([self._score(cut(generated), cut(reference)) for generated, reference in pairs])

    def _score(self, mine: list[str], theirs: list[str]) -> float:
        if isinstance(self.n, str):
            if not mine or not theirs:
                return 0.0
            longest = common_subsequence(mine, theirs)
            precision, recall = longest / len(mine), longest / len(theirs)
            beta = precision / recall if longest and self.by == "sets" else 1.0
            return (1 + beta**2) * recall * precision / (recall + beta**2 * precision) if longest else 0.0
        a, b = Counter(grams(mine, self.n)), Counter(grams(theirs, self.n))
        if self.by == "sets":
            a, b = Counter(a.keys()), Counter(b.keys())
        precision, recall = (overlap(a, b) / max(side.total(), 1) for side in (a, b))
        return 2 * precision * recall / (precision + recall) if precision else 0.0


@dataclass(frozen=True)
class Distinct(TextMeasure):
    """How varied the texts are: different n-grams of the whole corpus, divided by one of two counts.

    by: "grams": by all n-grams (Li et al. 2016), in [0, 1]. "responses": by the texts that are not empty, which can exceed 1:
        what KGSF, CRSLab and UniCRS report "per sentence", and so the survey's Table 3. One number; 0 if there is nothing to
        divide by.
    """

    n: int = 2
    by: str = "grams"
    words: str = "words"
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"words": tuple(WORDS), "by": ("grams", "responses")}

    def __call__(self, texts: Texts) -> float:
        cut = WORDS[self.words]
        written = [cut(text) for text in texts.generated]
        found = [grams(words, self.n) for words in written]
        below = sum(map(len, found)) if self.by == "grams" else sum(1 for words in written if words)
        return len({gram for each in found for gram in each}) / below if below else 0.0


_NAME = re.compile(r"(?P<name>[A-Za-z]+)(-(?P<n>\d+|[Ll]))?(\[(?P<options>[\w,]+)\])?")


def read_name(text: str, kinds: tuple[Any, ...]) -> Any:
    """The measure of one of `kinds` that `str` wrote. Upper and lower case do not matter. Raises UserError for any other."""
    found = _NAME.fullmatch(text.strip())
    named = {kind.__name__.lower(): kind for kind in kinds}
    if not found or found["name"].lower() not in named:
        word = re.split(r"[-\[]", text.strip())[0]
        raise UserError(
            needed="a text measure such as BLEU-4", came=repr(text), remedy=did_you_mean(word, [kind.__name__ for kind in kinds])
        )
    kind = named[found["name"].lower()]
    given: dict[str, Any] = {}
    known = {field.name: field for field in fields(kind)}
    if ("n" in known) != (found["n"] is not None):
        right = f"{kind.__name__}-2" if "n" in known else kind.__name__
        raise UserError(
            needed=f"{kind.__name__} {'with' if 'n' in known else 'without'} a length", came=repr(text), remedy=f"write {right}"
        )
    if found["n"] is not None:
        given["n"] = int(found["n"]) if found["n"].isdigit() else found["n"].upper()
    choices: dict[str, tuple[str, ...]] = kind.choices if issubclass(kind, TextMeasure) else {}
    for option in filter(None, (found["options"] or "").lower().split(",")):
        field = next((name for name, values in choices.items() if name in known and option in values), None)
        if field is None or field in given:
            usual = [value for name, values in choices.items() if name in known for value in values]
            raise UserError(
                needed=f"options of {kind.__name__}, each once",
                came=repr(option),
                remedy="choose from " + ", ".join(usual) if usual else f"write {kind.__name__}",
            )
        given[field] = option
    assert all(field.default is not MISSING for field in known.values())
    return kind(**given)
