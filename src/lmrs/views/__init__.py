"""How a Dataset is read as examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmrs.lazily import lazily

if TYPE_CHECKING:
    from lmrs.views.dialogues import Replies, TurnRows, Turns
    from lmrs.views.documents import Documents
    from lmrs.views.events import EventRows, Events
    from lmrs.views.impressions import Impressions, ShownRows
    from lmrs.views.paths import Paths
    from lmrs.views.profiled import Profiled
    from lmrs.views.rated import Rated
    from lmrs.views.reviews import ReviewRows, Reviews
    from lmrs.views.rewarded import Rewarded
    from lmrs.views.sequence import ItemSequence, Rows
    from lmrs.views.view import Examples, View

__all__ = [
    "Documents",
    "EventRows",
    "Events",
    "Examples",
    "Impressions",
    "ShownRows",
    "ItemSequence",
    "Paths",
    "Profiled",
    "Rated",
    "Rewarded",
    "Replies",
    "ReviewRows",
    "Reviews",
    "Rows",
    "TurnRows",
    "Turns",
    "View",
]

_WHERE = {
    "Documents": "documents",
    "EventRows": "events",
    "Events": "events",
    "Examples": "view",
    "Impressions": "impressions",
    "ItemSequence": "sequence",
    "Paths": "paths",
    "Profiled": "profiled",
    "Rated": "rated",
    "Replies": "dialogues",
    "ReviewRows": "reviews",
    "Reviews": "reviews",
    "Rewarded": "rewarded",
    "Rows": "sequence",
    "ShownRows": "impressions",
    "TurnRows": "dialogues",
    "Turns": "dialogues",
    "View": "view",
}

if not TYPE_CHECKING:  # to a type checker a module with __getattr__ has every name
    __getattr__, __dir__ = lazily(__name__, _WHERE)
