"""Conformance checks for anyone's parts. Three lines make a test file that pytest finds:

    from lmrs import testing

    class TestMine(testing.ModelTests):
        part = MyModel(dim=8)

Each class is a list of rules, one method each; a broken rule raises AssertionError with what differs and where. They run on a
data set of a few dozen users that is made in memory (`tiny`), in fp64 where equality is meant, and need nothing but lmrs.
"""

from lmrs.testing.documents import DocumentTests
from lmrs.testing.explainers import ExplainerTests
from lmrs.testing.likelihoods import LikelihoodTests
from lmrs.testing.losses import LossTests
from lmrs.testing.measures import MeasureTests
from lmrs.testing.models import ControlTests, ModelTests
from lmrs.testing.objectives import ObjectiveTests
from lmrs.testing.sources import SourceTests
from lmrs.testing.systems import FittedTests, SystemTests
from lmrs.testing.values import check_repr, rebuilt
from lmrs.testing.verdicts import VerdictTests
from lmrs.testing.views import RecordViewTests, ViewTests

__all__ = [
    "ControlTests",
    "DocumentTests",
    "ExplainerTests",
    "FittedTests",
    "LikelihoodTests",
    "LossTests",
    "MeasureTests",
    "ModelTests",
    "ObjectiveTests",
    "RecordViewTests",
    "SourceTests",
    "SystemTests",
    "VerdictTests",
    "ViewTests",
    "check_repr",
    "rebuilt",
]
