"""What is asked of a trained system and how an answer is judged."""

from lmrs.tasks.ranking import Ranking

Task = Ranking

__all__ = ["Ranking", "Task"]
