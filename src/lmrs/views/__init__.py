"""How a Dataset is read as examples."""

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
