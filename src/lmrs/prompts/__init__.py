"""Prompts: templates as values, compiled to token ids; soft prompts by source and by place; verbalisers."""

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
