"""The catalogue: every system that lmrs can build, by the name one types."""

from __future__ import annotations

from collections.abc import Callable

from lmrs.system import System
from lmrs.systems.bert4rec import bert4rec
from lmrs.systems.caser import caser
from lmrs.systems.ease import ease
from lmrs.systems.esasrec import esasrec
from lmrs.systems.gru4rec import gru4rec
from lmrs.systems.item_knn import item_knn
from lmrs.systems.kbrd import kbrd
from lmrs.systems.language import language
from lmrs.systems.lmrec import lmrec
from lmrs.systems.markov import markov
from lmrs.systems.p5 import p5
from lmrs.systems.pepler import pepler
from lmrs.systems.peter import peter
from lmrs.systems.plm_nr import plm_nr
from lmrs.systems.plm_rec import plm_rec
from lmrs.systems.popularity import popularity
from lmrs.systems.ppr import ppr
from lmrs.systems.prec import prec
from lmrs.systems.prl import prl
from lmrs.systems.prompt4nr import prompt4nr
from lmrs.systems.ptm4tag import ptm4tag
from lmrs.systems.recent_popularity import recent_popularity
from lmrs.systems.s3rec import s3rec
from lmrs.systems.sasrec import sasrec
from lmrs.systems.tallrec import tallrec
from lmrs.systems.tiger import tiger
from lmrs.systems.transformers4rec import transformers4rec
from lmrs.systems.unicrs import unicrs
from lmrs.systems.unisrec import unisrec
from lmrs.systems.walks import walks
from lmrs.systems.zero_shot import zero_shot

CATALOGUE: dict[str, Callable[..., System]] = {
    # language-modelling systems, by year
    "gru4rec": gru4rec,
    "caser": caser,
    "sasrec": sasrec,
    "bert4rec": bert4rec,
    "s3rec": s3rec,
    "transformers4rec": transformers4rec,
    "esasrec": esasrec,
    # prompts to models of item ids
    "ppr": ppr,
    "prl": prl,
    # item texts, read by a frozen language model
    "unisrec": unisrec,
    # language models, asked in words
    "lmrec": lmrec,
    "zero-shot": zero_shot,
    "tallrec": tallrec,
    "language": language,
    # documents by their parts
    "ptm4tag": ptm4tag,
    # paths over a knowledge graph
    "plm-rec": plm_rec,
    # items spelt by a sequence-to-sequence model
    "p5": p5,
    "tiger": tiger,
    # explanations: why a user chose an item
    "peter": peter,
    "pepler": pepler,
    # dialogues
    "kbrd": kbrd,
    "unicrs": unicrs,
    # news: what was shown, and what of it was clicked
    "plm-nr": plm_nr,
    "prec": prec,
    "prompt4nr": prompt4nr,
    # controls: what a learned system has to beat
    "popularity": popularity,
    "recent-popularity": recent_popularity,
    "markov": markov,
    "item-knn": item_knn,
    "ease": ease,
    "walks": walks,
}

__all__ = [
    "CATALOGUE", "bert4rec", "caser", "ease", "esasrec", "gru4rec", "item_knn", "kbrd", "language", "lmrec", "markov", "p5",
    "pepler", "peter", "plm_nr", "plm_rec", "popularity", "ppr", "prec", "prl", "prompt4nr", "ptm4tag", "recent_popularity",
    "s3rec", "sasrec", "tallrec", "tiger", "transformers4rec", "unicrs", "unisrec", "walks", "zero_shot",
]  # fmt: skip
