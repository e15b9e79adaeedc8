"""What is asked of a trained system and how an answer is judged."""

from lmrs.tasks.next_item import NextItem

Task = NextItem

__all__ = ["NextItem", "Task"]
