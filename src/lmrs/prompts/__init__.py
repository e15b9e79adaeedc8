"""Prompts: templates as values, compiled to token ids; soft prompts by source and place; verbalisers."""

from lmrs.prompts.compiled import Compiled, Report
from lmrs.prompts.compiling import compile
from lmrs.prompts.examples import Column, Examples
from lmrs.prompts.notation import parse
from lmrs.prompts.pieces import declare, frame_of
from lmrs.prompts.segments import Control, Data, Hard, Item, ListOf, Mask, Soft, Special, Target, Vector
from lmrs.prompts.template import Frame, Template

__all__ = [
    "Column",
    "Compiled",
    "Control",
    "Data",
    "Examples",
    "Frame",
    "Hard",
    "Item",
    "ListOf",
    "Mask",
    "Report",
    "Soft",
    "Special",
    "Target",
    "Template",
    "Vector",
    "compile",
    "declare",
    "frame_of",
    "parse",
]
