"""What is asked of a trained system and how an answer is judged."""

from lmrs.tasks.conversing import Conversing
from lmrs.tasks.explaining import Explaining
from lmrs.tasks.impressions import Clicks
from lmrs.tasks.liking import Liked
from lmrs.tasks.ranking import Ranking
from lmrs.tasks.rating import Rating
from lmrs.tasks.responding import Responding
from lmrs.tasks.talking import Talking
from lmrs.tasks.task import Answered, RecordTask

Task = Ranking | RecordTask

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
