"""What a language model says, as items: candidates by likelihood, beam search under a trie, titles read back."""

from lmrs.decoding.beam import Found, ModelSteps, Steps, beam
from lmrs.decoding.context import Context, causal, left_padded, seq2seq
from lmrs.decoding.continuations import Likelihoods, continuations, masked
from lmrs.decoding.greedy import greedy
from lmrs.decoding.titles import Match, Parsed, Titles, normalised

__all__ = [
    "Context",
    "Found",
    "Likelihoods",
    "Match",
    "ModelSteps",
    "Parsed",
    "Steps",
    "Titles",
    "beam",
    "causal",
    "continuations",
    "greedy",
    "left_padded",
    "masked",
    "normalised",
    "seq2seq",
]
