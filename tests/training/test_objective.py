from __future__ import annotations

import pytest

from tlsearch.errors import SpecError, UnknownNameError
from tlsearch.spec import StudySpec, parse
from tlsearch.training.objective import metric_of, settled


def study(**more: object) -> StudySpec:
    return parse({"study": "x", "data": {"source": "digits"}, "backbones": ["timm/resnet18"], **more})


def test_what_the_file_leaves_out_is_the_tasks():
    known = settled(study())
    assert known.objective.metric == "accuracy"
    assert known.to_json()["objective"] == {"metric": "accuracy"}
    assert settled(known) == known
    assert metric_of(study(objective={"metric": "log_loss"})).minimize


@pytest.mark.parametrize(
    ("objective", "told"),
    [
        ({"metric": "macro_f"}, 'Did you mean "macro_f1"'),
        ({"metric": "accuracy", "direction": "minimize"}, "accuracy is to maximize, not to minimize"),
        ({"metric": "log_loss", "direction": "maximize"}, "log_loss is to minimize, not to maximize"),
    ],
)
def test_an_objective_that_the_task_does_not_have_is_refused(objective, told):
    with pytest.raises(SpecError, match=told):
        settled(study(objective=objective))


def test_an_unknown_task_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match='Did you mean "classification"'):
        settled(study(task="clasification"))
