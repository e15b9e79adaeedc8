"""Tasks whose questions are records: fit watches their measures, evaluate reports and keeps what was answered."""

import json
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lmrs.compare import compare
from lmrs.errors import DataError, UserError
from lmrs.evaluate import default_measures, evaluate
from lmrs.fit import Execution, fit
from lmrs.measures import HR, RMSE
from lmrs.recommender import Recommender
from lmrs.system import Stage
from lmrs.systems.sasrec import sasrec
from lmrs.tasks import Answered, RecordTask
from lmrs.testing import tiny
from lmrs.views import ItemSequence, Rows

CPU = Execution(device="cpu")
ANSWERS = {"RMSE": (3.0, 1.0, 2.0), "HR@1": (0.0, 1.0, 0.5)}  # of the first, the second and the third time it is asked


@dataclass(frozen=True)
class Told(RecordTask):
    """A task that says how good the answers were, whatever they are."""

    view: ItemSequence
    measures: ClassVar[tuple[str, ...]] = ("HR@1", "RMSE")
    among: ClassVar[str] = "what was told"
    asked: ClassVar[list[str]] = []

    def measure(self, name):
        if name not in ("RMSE", "HR@1"):
            raise UserError(needed="HR@1 or RMSE", came=name)
        return RMSE() if name == "RMSE" else HR(1)

    def rows(self, queries):
        return Rows(queries.dataset, queries.user, queries.start, queries.stop)

    def judge(self, scorer, objective, rows, vocab, *, measures, seed, device="cpu", reporter=None):
        n, values = len(rows), {}
        for measure in measures:
            name = str(measure)
            value = ANSWERS[name][min(self.asked.count(name), 2)]
            self.asked.append(name)
            values[name] = value if name == "RMSE" else np.full(n, value)
        said = pa.array([f"answer {at}" for at in range(n)])
        return Answered(values, rows.user, np.ones(n, np.int64), {"said": said}, {"told": n})


def system(measure):
    Told.asked.clear()
    made = sasrec(dim=8, layers=1, heads=1, max_len=8, epochs=3, patience=None)
    stages = tuple(
        replace(stage, budget=replace(stage.budget, measure=measure)) for stage in made.stages if isinstance(stage, Stage)
    )
    return replace(made, stages=stages, task=Told(ItemSequence(8)))


@pytest.mark.parametrize("measure", ["RMSE", "HR@1"])
def test_the_best_epoch_is_the_best_by_the_tasks_own_measure_whichever_way_it_goes(measure, tmp_path):
    fitted = fit(system(measure), tiny.split(), out=tmp_path, execution=CPU)
    assert [line["valid"][measure] for line in fitted.log] == list(ANSWERS[measure])
    Told.asked.clear()
    two = fit(replace(fitted.system, stages=_epochs(fitted.system, 2)), tiny.split(), execution=CPU)
    for name, tensor in two.scorer.state_dict().items():  # the second of the three epochs was the best of both runs
        assert tensor.equal(fitted.scorer.state_dict()[name]), name


def _epochs(made, n):
    return tuple(replace(stage, budget=replace(stage.budget, epochs=n)) for stage in made.stages)


def test_evaluate_reports_what_the_task_found_and_keeps_the_answers(tmp_path):
    fitted = fit(system("RMSE"), tiny.split(), execution=CPU)
    Told.asked.clear()
    found = evaluate(fitted, tiny.split())
    n = len(tiny.split().sealed_test)
    assert default_measures(fitted.system) == ("HR@1", "RMSE")
    assert found.measures == {"HR@1": 0.0, "RMSE": 3.0}
    assert list(found.intervals) == ["HR@1"], "one number for all has no interval over users"
    assert (found.protocol.queries, found.protocol.candidates, found.protocol.seen) == (n, "what was told", "kept")
    assert found.facts == {"told": n}
    folder = found.save(tmp_path / "a")
    assert pq.read_table(folder / "queries.parquet").column_names == ["query", "user", "targets", "HR@1"]
    answers = pq.read_table(folder / "answers.parquet")
    assert answers.column_names == ["query", "user", "said"]
    assert answers.column("said")[1].as_py() == "answer 1"
    assert json.loads((folder / "report.json").read_text())["measures"]["RMSE"] == 3.0
    other = evaluate(replace(Recommender.of(fitted), name="other"), tiny.split())
    other.save(tmp_path / "b")
    rows = compare([tmp_path / "a", tmp_path / "b"], measure="hr@1").rows
    assert [row.interval.mean for row in rows] == [0.0, 1.0]


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"needed HR@1 or RMSE, got NDCG@10"):
        fit(system("NDCG@10"), tiny.split(), execution=CPU)
    fitted = fit(system("RMSE"), tiny.split(), execution=CPU)
    with pytest.raises(UserError, match="got AUC"):
        evaluate(fitted, tiny.split(), measures=["AUC"])
    with pytest.raises(UserError, match=r"recommends items for a history, got .* whose task is Told"):
        Recommender.of(fitted).recommend(["i1"])
    with pytest.raises(DataError, match="the catalogue that the recommender was trained on"):
        evaluate(fitted, tiny.split(tiny.dataset(items=9)))
