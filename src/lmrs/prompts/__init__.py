"""Prompts: templates as values, compiled to token ids; soft prompts by source and by place; verbalisers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmrs.lazily import lazily

if TYPE_CHECKING:
    from lmrs.prompts.calibration import calibrated, content_free_prior, ensemble
    from lmrs.prompts.combined import Reparameterised, SharedPlus
    from lmrs.prompts.compiled import Compiled, Report
    from lmrs.prompts.compiling import compile
    from lmrs.prompts.examples import Column, Examples
    from lmrs.prompts.notation import parse
    from lmrs.prompts.pieces import declare, frame_of
    from lmrs.prompts.places import InputVectors, KeyValues, SoftPrompts, VocabularyRows, build
    from lmrs.prompts.segments import Control, Data, Hard, Item, ListOf, Mask, Soft, Special, Target, Vector
    from lmrs.prompts.source import Source, SourceModule
    from lmrs.prompts.sources import ById, Free, FromProfile, FromVector
    from lmrs.prompts.start import from_vocabulary, from_words
    from lmrs.prompts.template import Frame, Template
    from lmrs.prompts.verbalisers import ClassHead, MultiMask, Words, YesNo

__all__ = [
    "ById",
    "ClassHead",
    "Column",
    "Compiled",
    "Control",
    "Data",
    "Examples",
    "Frame",
    "Free",
    "FromProfile",
    "FromVector",
    "Hard",
    "InputVectors",
    "Item",
    "KeyValues",
    "ListOf",
    "Mask",
    "MultiMask",
    "Reparameterised",
    "Report",
    "SharedPlus",
    "Soft",
    "SoftPrompts",
    "Source",
    "SourceModule",
    "Special",
    "Target",
    "Template",
    "Vector",
    "VocabularyRows",
    "Words",
    "YesNo",
    "build",
    "calibrated",
    "compile",
    "content_free_prior",
    "declare",
    "ensemble",
    "frame_of",
    "from_vocabulary",
    "from_words",
    "parse",
]

_WHERE = {
    "ById": "sources",
    "ClassHead": "verbalisers",
    "Column": "examples",
    "Compiled": "compiled",
    "Control": "segments",
    "Data": "segments",
    "Examples": "examples",
    "Frame": "template",
    "Free": "sources",
    "FromProfile": "sources",
    "FromVector": "sources",
    "Hard": "segments",
    "InputVectors": "places",
    "Item": "segments",
    "KeyValues": "places",
    "ListOf": "segments",
    "Mask": "segments",
    "MultiMask": "verbalisers",
    "Reparameterised": "combined",
    "Report": "compiled",
    "SharedPlus": "combined",
    "Soft": "segments",
    "SoftPrompts": "places",
    "Source": "source",
    "SourceModule": "source",
    "Special": "segments",
    "Target": "segments",
    "Template": "template",
    "Vector": "segments",
    "VocabularyRows": "places",
    "Words": "verbalisers",
    "YesNo": "verbalisers",
    "build": "places",
    "calibrated": "calibration",
    "compile": "compiling",
    "content_free_prior": "calibration",
    "declare": "pieces",
    "ensemble": "calibration",
    "frame_of": "pieces",
    "from_vocabulary": "start",
    "from_words": "start",
    "parse": "notation",
}

if not TYPE_CHECKING:  # to a type checker a module with __getattr__ has every name
    __getattr__, __dir__ = lazily(__name__, _WHERE)
