"""What is asked of a trained system and how an answer is judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmrs.lazily import lazily

if TYPE_CHECKING:
    from lmrs.tasks.conversing import Conversing
    from lmrs.tasks.explaining import Explaining
    from lmrs.tasks.impressions import Clicks
    from lmrs.tasks.liking import Liked
    from lmrs.tasks.ranking import Ranking
    from lmrs.tasks.rating import Rating
    from lmrs.tasks.responding import Responding
    from lmrs.tasks.talking import Talking
    from lmrs.tasks.task import Answered, RecordTask, Task

__all__ = [
    "Answered",
    "Clicks",
    "Conversing",
    "Explaining",
    "Liked",
    "Ranking",
    "Rating",
    "RecordTask",
    "Responding",
    "Talking",
    "Task",
]

_WHERE = {
    "Answered": "task",
    "Clicks": "impressions",
    "Conversing": "conversing",
    "Explaining": "explaining",
    "Liked": "liking",
    "Ranking": "ranking",
    "Rating": "rating",
    "RecordTask": "task",
    "Responding": "responding",
    "Talking": "talking",
    "Task": "task",
}

if not TYPE_CHECKING:  # to a type checker a module with __getattr__ has every name
    __getattr__, __dir__ = lazily(__name__, _WHERE)
