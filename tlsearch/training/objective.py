"""What a study learns and by what it compares: its task and metric, as the task's plugin knows them."""

from __future__ import annotations

from tlsearch import registry
from tlsearch.contracts import Metric, Task
from tlsearch.errors import SpecError
from tlsearch.spec import StudySpec


def task_of(spec: StudySpec) -> Task:
    """The task that a study names, or else the one that its data's source is for.

    Raises:
        UnknownNameError, PluginError: it can't be had.
    """
    return registry.task(spec.task or registry.dataset(spec.data.source).task)


def metric_of(spec: StudySpec) -> Metric:
    """The metric of a study.

    Raises:
        SpecError: its task has none of that name.
    """
    return task_of(spec).metric(spec.objective.metric)


def settled(spec: StudySpec) -> StudySpec:
    """The study with its metric's name, also where the file leaves it to the task.

    Raises:
        SpecError: its task has no such metric, or it is to be optimized the other way.
        UnknownNameError, PluginError: the task can't be had.
    """
    metric = metric_of(spec)
    if spec.objective.direction not in (None, metric.direction):
        raise SpecError(
            f"objective: {metric.name} is to {metric.direction}, not to {spec.objective.direction}."
        )
    return spec.model_copy(update={"objective": spec.objective.model_copy(update={"metric": metric.name})})
