"""Training signals, one file each."""

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
