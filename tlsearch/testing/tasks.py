"""The contract of a task, as tests to inherit."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from tlsearch import registry
from tlsearch.contracts import Level, LinearRecipe, PlaceTask, Recipe, TargetSpec, Task
from tlsearch.errors import PluginError
from tlsearch.testing.contract import CheckResult, Contract, checked, demand

WIDTH = 8
"""Features of the items that a head is made for."""


class TaskContract(Contract):
    """All that a task promises. Inherit it, say which one, and let pytest run it.

    Attributes:
        task: the name of its entry point.
        targets: raw targets of a few dozen items, of which a data set could consist.
    """

    task: ClassVar[str]
    targets: ClassVar[Sequence[Any]] = [float(number % 7) + 0.5 for number in range(42)]

    @classmethod
    def _find(cls) -> None:
        """Find the task."""
        registry.task(cls.task)

    def test_metrics(self) -> None:
        """Metrics have unique names, the one that breaks ties is among them, and all are computed."""
        names = [metric.name for metric in self._task.metrics]
        demand(names, "metrics is empty")
        demand(len(set(names)) == len(names), "a metric's name stands twice")
        demand(self._task.tie_breaker in names, f"tie_breaker {self._task.tie_breaker!r} is no metric")
        spec, targets = self._encoded
        scores = self._task.score(self._outputs(spec, len(targets)), targets, spec)
        lacking = set(names) - set(scores)
        demand(not lacking, f"the evaluator doesn't compute {sorted(lacking)}")
        self.note(f"metrics: {', '.join(names)}")

    def test_targets_go_there_and_back(self) -> None:
        """What `plain` tells of an encoded target is JSON, and encodes to the same."""
        spec, targets = self._encoded
        told = [self._task.plain(target, spec) for target in targets.numpy()]
        again = self._task.encode(json.loads(json.dumps(told)), spec)
        demand(again.dtype == targets.numpy().dtype, "targets encoded again are of another type")
        demand(np.allclose(again, targets.numpy(), atol=1e-4), "targets encoded again are others")
        kept = TargetSpec(spec.names, json.loads(json.dumps(dict(spec.facts))))
        same = np.array_equal(self._task.encode(self.targets, kept), targets.numpy())
        demand(same, "a spec that was stored encodes otherwise: its facts must be what JSON holds")

    def test_strata(self) -> None:
        """Every item is of one kind at least, and kinds have names."""
        spec, targets = self._encoded
        strata = self._task.strata(targets.numpy(), spec)
        demand(len(strata.of) == len(targets), "there aren't strata for every item")
        known = range(len(strata.names))
        demand(all(kinds and set(kinds) <= set(known) for kinds in strata.of), "an item is of no known kind")

    def test_loss_and_gradient(self) -> None:
        """The loss can be differentiated, and the gradient at the outputs is that of the loss."""
        spec, targets = self._encoded
        outputs = torch.stack([self._outputs(spec, len(targets), seed) for seed in range(3)], dim=-1)
        recipes = [LinearRecipe(1e-3) for _ in range(3)]
        leaf = outputs.clone().requires_grad_()
        losses = [self._task.loss(one, targets, Recipe()) for one in leaf.unbind(dim=-1)]
        demand(all(loss.ndim == 0 for loss in losses), "the loss is no scalar")
        (expected,) = torch.autograd.grad(torch.stack(losses).sum(), leaf)
        found = self._task.output_gradient(outputs.clone(), targets, recipes)
        demand(torch.allclose(found, expected, atol=1e-5), "output_gradient isn't the gradient of loss")

    def test_predictions(self) -> None:
        """A prediction is JSON of the names that `unreadable` has; it is told in words and in cells."""
        spec, targets = self._encoded
        outputs = self._outputs(spec, len(targets))
        calibration = json.loads(json.dumps(dict(self._task.calibrate(outputs, targets))))
        _, decoded = self._task.decode(outputs, spec, calibration)
        one = self._task.predict(decoded[0].numpy(), spec, calibration)
        json.dumps(dict(one), allow_nan=False)
        demand(set(one) == set(self._task.unreadable), "predict and unreadable have other names")
        demand(self._task.say(one, top=1), "say tells nothing")
        cells = [heading for heading, _ in self._task.cells(one, spec)]
        empty = [heading for heading, _ in self._task.cells(self._task.unreadable, spec)]
        demand(cells == empty, "an item that can't be read has other cells")
        answers = self._task.answers(decoded.numpy(), spec, calibration)
        demand(len(answers) == len(targets), "there isn't an answer for each item")

    @property
    def _task(self) -> Task:
        return registry.task(self.task)

    @property
    def _encoded(self) -> tuple[TargetSpec, Tensor]:
        spec = self._task.describe(self.targets)
        return spec, torch.from_numpy(np.asarray(self._task.encode(self.targets, spec)))

    def _outputs(self, spec: TargetSpec, count: int, seed: int = 0) -> Tensor:
        """Outputs of a fresh head on random features."""
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        task = self._task
        if isinstance(task, PlaceTask):
            levels = [Level("fine", WIDTH, 8), Level("coarse", 2 * WIDTH, 4)]
            maps = [
                10 * torch.randn(count, level.channels, level.side, level.side, generator=generator)
                for level in levels
            ]
            with torch.no_grad():
                placed: Tensor = task.map_head(levels, spec).eval()(*maps)
            return placed
        features = 10 * torch.randn(count, WIDTH, generator=generator)
        with torch.no_grad():
            outputs: Tensor = task.head(WIDTH, spec).eval()(features)
        return outputs


def check_task(task: str) -> list[CheckResult]:
    """Run the contract of a task, without pytest.

    Raises:
        UnknownNameError: nothing installed goes by that name.
    """
    words: dict[str, Any] = {"task": task}
    with contextlib.suppress(PluginError):  # which the contract's first test tells
        words |= {"targets": examples} if (examples := registry.task(task).examples) else {}
    return checked(TaskContract, **words)
