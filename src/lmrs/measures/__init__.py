"""Measures are values: `NDCG(10)(ranks)` gives one number a query, `str(NDCG(10)) == "NDCG@10"`, `parse` reads it back.

| measure | reads | in one line |
|---|---|---|
| HR, Recall, Precision, F1 | Ranks | hits in the first k |
| NDCG, MRR, MAP | Ranks | hits near the top |
| AUC, GAUC | Ranks | pairs in the right order |
| Coverage, Novelty, ARP, PopularityBias | Lists | what is recommended, wanted or not |
| MINDMRR | Ranks | impressions: every click counts |
| TagRecall, TagF1 | Ranks | tags of a post |
| RMSE, MAE | pairs | distance of predicted ratings |
| BLEU, SentenceBLEU, ROUGE | Texts | likeness to a reference |
| Distinct, USR | Texts | variety |
| ItemRatio | Texts | items that a response names |
| FMR, FCR, DIV | Texts | features that are spoken of |
| PPL | Likelihoods | how probable the reference was |

The mean over all queries is the reported number: a user who got nothing scores 0 and is counted. Measures of text have their
own names (`BLEU-4`, `ROUGE-L`, `Distinct-2[responses]`), which `parse_text` reads.
"""

from __future__ import annotations

import re
from typing import Any

from lmrs.errors import UserError, did_you_mean
from lmrs.measures.conversation import ItemRatio
from lmrs.measures.explanation import DIV, FCR, FMR, USR
from lmrs.measures.hits import F1, HR, Precision, Recall
from lmrs.measures.impressions import MINDMRR, rank_impressions
from lmrs.measures.likelihood import PPL, Likelihoods
from lmrs.measures.lists import ARP, Coverage, Lists, Novelty, PopularityBias
from lmrs.measures.pairwise import AUC, GAUC, auc, gauc
from lmrs.measures.position import MAP, MRR, NDCG
from lmrs.measures.ranks import RankMeasure, Ranks, Sampling
from lmrs.measures.rating import MAE, RMSE, mae, rmse
from lmrs.measures.sampled import Sampled
from lmrs.measures.tags import TagF1, TagRecall
from lmrs.measures.text import BLEU, ROUGE, Distinct, SentenceBLEU, TextMeasure, Texts, read_name

__all__ = [
    "ARP", "AUC", "BLEU", "DIV", "F1", "FCR", "FMR", "GAUC", "HR", "MAE", "MAP", "MINDMRR", "MRR", "NDCG", "PPL", "RMSE", "ROUGE",
    "TEXT", "USR", "Coverage", "Distinct", "ItemRatio", "Likelihoods", "Lists", "Measure", "Novelty", "PopularityBias",
    "Precision", "RankMeasure", "Ranks", "Recall", "Sampled", "Sampling", "SentenceBLEU", "TagF1", "TagRecall", "TextMeasure",
    "Texts", "auc", "canonical", "falls", "gauc", "mae", "parse", "parse_text", "rank_impressions", "rmse",
]  # fmt: skip

Measure = RankMeasure | Sampled | Coverage | Novelty | ARP | PopularityBias | RMSE | MAE

WITH_CUTOFF = (HR, Recall, Precision, F1, TagRecall, TagF1, NDCG, MRR, MAP, Coverage, Novelty, ARP, PopularityBias)
WHOLE_TOO = (NDCG, MRR, MAP)
WITHOUT_CUTOFF = (AUC, MINDMRR, RMSE, MAE)
ALL = (*WITH_CUTOFF, *WITHOUT_CUTOFF, GAUC)
TEXT = (BLEU, SentenceBLEU, ROUGE, Distinct, ItemRatio, USR, FMR, FCR, DIV, PPL)

_NAME = re.compile(r"(?P<name>[A-Za-z0-9]+)(\[(?P<weight>\w+)\])?(@(?P<k>\d+))?(/(?P<n>\d+)(?P<pop>pop)?neg)?")


def parse(text: str) -> Measure:
    """The measure that `str` wrote. Upper and lower case do not matter.

    Raises UserError for an unknown name (with the nearest ones) and for a missing or needless cutoff.

    >>> parse("NDCG@10") == NDCG(10), parse("hr@5/99neg")
    (True, Sampled(measure=HR(k=5), n=99, by='uniform'))
    """
    found = _NAME.fullmatch(text.strip())
    kinds = {kind.__name__.lower(): kind for kind in ALL}
    if not found or found["name"].lower() not in kinds:
        word = re.split(r"[@/\[]", text.strip())[0]
        raise UserError(
            needed="a measure such as NDCG@10", came=repr(text), remedy=did_you_mean(word, [kind.__name__ for kind in ALL])
        )
    kind: Any = kinds[found["name"].lower()]
    k = int(found["k"]) if found["k"] else None
    measure: Measure
    if kind is GAUC and k is None:
        measure = GAUC(found["weight"].lower()) if found["weight"] else GAUC()
    elif found["weight"]:
        raise UserError(needed=f"{kind.__name__} without a weight", came=repr(text), remedy="only GAUC[positives] has one")
    elif kind in WITH_CUTOFF and (k is not None or kind in WHOLE_TOO):
        measure = kind(k)
    elif kind in WITHOUT_CUTOFF and k is None:
        measure = kind()
    else:
        right = f"{kind.__name__}@10" if k is None else kind.__name__
        raise UserError(
            needed=f"{kind.__name__} {'with' if k is None else 'without'} a cutoff", came=repr(text), remedy=f"write {right}"
        )
    if not found["n"]:
        return measure
    if not isinstance(measure, RankMeasure):
        raise UserError(needed="a ranking measure before '/'", came=repr(text), remedy=f"ask for {measure} without negatives")
    return Sampled(measure, int(found["n"]), "popularity" if found["pop"] else "uniform")


def parse_text(text: str) -> TextMeasure | PPL:
    """The text measure that `str` wrote. Upper and lower case do not matter.

    Raises UserError for an unknown name or option (with the right ones) and for a missing or needless length.

    >>> parse_text("BLEU-4") == BLEU(4), parse_text("rouge-l[sets]")
    (True, ROUGE(n='L', by='sets', words='latin'))
    """
    found: TextMeasure | PPL = read_name(text, TEXT)
    return found


def falls(measure: Measure | TextMeasure | PPL) -> bool:
    """Whether smaller is better."""
    return isinstance(measure, PPL | RMSE | MAE | DIV)


def canonical(text: str) -> str:
    """The name as `str` of the measure writes it, whichever kind it is. Raises UserError as `parse` does."""
    word = re.split(r"[-@/\[]", text.strip())[0].lower()
    return str(parse_text(text) if word in {kind.__name__.lower() for kind in TEXT} else parse(text))
