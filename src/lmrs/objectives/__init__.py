"""Training signals, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmrs.lazily import lazily

if TYPE_CHECKING:
    from lmrs.objectives.cloze import Cloze
    from lmrs.objectives.continuation import Continuation
    from lmrs.objectives.contrastive import Contrastive
    from lmrs.objectives.explanation import Explanation
    from lmrs.objectives.families import Families
    from lmrs.objectives.instructed import Instructed
    from lmrs.objectives.liking import Liking
    from lmrs.objectives.margin import Margin
    from lmrs.objectives.mutual import Mutual
    from lmrs.objectives.next_item import NextItem
    from lmrs.objectives.next_items import NextItems
    from lmrs.objectives.objective import Objective
    from lmrs.objectives.opened import Opened
    from lmrs.objectives.path_tokens import PathTokens
    from lmrs.objectives.permuted import Permuted
    from lmrs.objectives.replaced import Replaced
    from lmrs.objectives.reply import Reply
    from lmrs.objectives.rewarded_next import RewardedNext
    from lmrs.objectives.shown import Shown
    from lmrs.objectives.spoken import Spoken
    from lmrs.objectives.tags import Tags
    from lmrs.objectives.total import Total
    from lmrs.objectives.verdict import Verdict

__all__ = [
    "Cloze",
    "Continuation",
    "Contrastive",
    "Explanation",
    "Families",
    "Liking",
    "Margin",
    "Instructed",
    "Mutual",
    "NextItem",
    "NextItems",
    "Objective",
    "Opened",
    "PathTokens",
    "Permuted",
    "Replaced",
    "Reply",
    "RewardedNext",
    "Spoken",
    "Shown",
    "Tags",
    "Total",
    "Verdict",
]

_WHERE = {
    "Cloze": "cloze",
    "Continuation": "continuation",
    "Contrastive": "contrastive",
    "Explanation": "explanation",
    "Families": "families",
    "Instructed": "instructed",
    "Liking": "liking",
    "Margin": "margin",
    "Mutual": "mutual",
    "NextItem": "next_item",
    "NextItems": "next_items",
    "Objective": "objective",
    "Opened": "opened",
    "PathTokens": "path_tokens",
    "Permuted": "permuted",
    "Replaced": "replaced",
    "Reply": "reply",
    "RewardedNext": "rewarded_next",
    "Shown": "shown",
    "Spoken": "spoken",
    "Tags": "tags",
    "Total": "total",
    "Verdict": "verdict",
}

if not TYPE_CHECKING:  # to a type checker a module with __getattr__ has every name
    __getattr__, __dir__ = lazily(__name__, _WHERE)
