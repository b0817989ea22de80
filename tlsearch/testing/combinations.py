"""The contract of a combination, as tests to inherit."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from tlsearch import registry
from tlsearch.contracts import Backbone, Combination, CombinationTask, Combined, Member, Score, State
from tlsearch.contracts.combination import MEMBERS, STRUCTURE, combined_params, members_of
from tlsearch.counts import kind_of
from tlsearch.models.rebuild import rebuild
from tlsearch.records import Params
from tlsearch.testing import fixtures
from tlsearch.testing.contract import CheckResult, Contract, checked, demand
from tlsearch.testing.demands import BACKBONES, short_name
from tlsearch.testing.trial_harness import Laboratory

UNDER_TEST = "combination_under_test"
TRAINED_BY = "fine_tune"
RATES = (3e-3, 1e-2, 1e-3)
"""Learning rates of the members."""
EPOCHS = 6
CLASS_COUNTS = (2, 3, 30)


class CombinationContract(Contract):
    """All that a combination promises. Inherit it, say which one, and let pytest run it.

    Attributes:
        combination: the name of its entry point, or an instance of a class whose module can be imported.
    """

    combination: ClassVar[str | Combination]

    _name: ClassVar[str]
    _laboratory: ClassVar[Laboratory]
    _made: ClassVar[dict[str, Combined | None]]

    @classmethod
    def _find(cls) -> None:
        """Find it, and make a laboratory for its members."""
        name = cls.combination
        if not isinstance(name, str):
            cls._stack.enter_context(fixtures.installed(combinations={UNDER_TEST: type(name)}))
            name = UNDER_TEST
        registry.combination(name)
        cls._name = name
        cls._laboratory = Laboratory(TRAINED_BY, cls._folder, EPOCHS)
        cls._made = {}

    def test_combines(self) -> None:
        """Of three fine-tuned models it makes a finite one of their structure, or says that there is none."""
        for backbone in BACKBONES:
            combined = self._combined(backbone)
            if combined is None:
                self.note(f"nothing better ({short_name(backbone)})")
                continue
            wanted = _form(self._task(backbone).members[0].state())
            form = _form(combined.state)
            odd = sorted(name for name in {*wanted, *form} if wanted.get(name) != form.get(name))
            for name in odd[:1]:
                raise AssertionError(f"{name} is {form.get(name)}, not {wanted.get(name)}")
            infinite = [name for name, tensor in combined.state.items() if not bool(tensor.isfinite().all())]
            demand(not infinite, f"{infinite[:3]} isn't finite")
            value = self._task(backbone).score(combined.state)[0]
            best = self._task(backbone).members[0].score[0]
            self.note(f"accuracy {value:.2f} after {best:.2f} ({short_name(backbone)})")

    def test_record(self) -> None:
        """It names members that it was given, and what it chose as plain values under names of its own."""
        for backbone in BACKBONES:
            combined = self._combined(backbone)
            if combined is None:
                continue
            known = [member.number for member in self._task(backbone).members]
            odd = [number for number in combined.members if number not in known]
            demand(bool(combined.members) and not odd, f"members are {combined.members}, of {known}")
            demand(len(set(combined.members)) == len(combined.members), "a member is named twice")
            for key, value in combined.params.items():
                plain = value is None or isinstance(value, bool | int | float | str)
                demand(isinstance(key, str) and key.isidentifier(), f"{key!r} can't name a parameter")
                demand(plain, f"params[{key!r}] is {kind_of(value)}")
                demand(key not in (MEMBERS, STRUCTURE), f'params has "{key}", which is reserved')
            self.note(f"members {list(combined.members)} {dict(combined.params)} ({short_name(backbone)})")

    def test_leaves_members_as_they_are(self) -> None:
        """States and source are not written to."""
        for backbone in BACKBONES:
            task = self._task(backbone)
            kept = {member.number: member.state() for member in task.members}
            given = [{name: tensor.clone() for name, tensor in state.items()} for state in kept.values()]
            before = {name: tensor.clone() for name, tensor in task.source.items()}
            members = [
                Member(m.number, m.strategy, m.params, m.score, _holding(kept[m.number]))
                for m in task.members
            ]
            registry.combination(self._name).combine(
                CombinationTask(task.backbone, members, task.source, task.score)
            )
            for state, old in [*zip(kept.values(), given, strict=True), (task.source, before)]:
                odd = [name for name, tensor in old.items() if not torch.equal(state[name], tensor)]
                demand(not odd, f"it writes to {odd[:3]} of what it is given")

    def test_same_again(self) -> None:
        """The same members give the same model again."""
        for backbone in BACKBONES:
            first, again = self._combined(backbone), self._combine(self._task(backbone))
            demand((first is None) == (again is None), "it makes something only sometimes")
            if first is None or again is None:
                continue
            demand(first.members == again.members and first.params == again.params, "it chooses otherwise")
            odd = [name for name, tensor in first.state.items() if not torch.equal(again.state[name], tensor)]
            demand(not odd, f"{odd[:3]} comes out otherwise")

    def test_one_member(self) -> None:
        """A single member is no trouble."""
        task = self._task(fixtures.CNN)
        combined = self._combine(CombinationTask(task.backbone, task.members[:1], task.source, task.score))
        self.note("nothing" if combined is None else f"{dict(combined.params)}")

    def test_reloads(self) -> None:
        """The trial that is recorded is rebuilt by name, and predicts what was measured."""
        for backbone in BACKBONES:
            combined = self._combined(backbone)
            if combined is None:
                continue
            task = self._task(backbone)
            first = next(member for member in task.members if member.number == combined.members[0])
            params = combined_params(combined, first)
            demand(members_of(params) == combined.members, "the members can't be read from the record")
            model = rebuild(
                backbone=backbone,
                weights="random",
                image_size=None,
                strategy=self._name,
                params=params,
                **fixtures.learned(fixtures.CLASSES),
                state=combined.state,
                complete=True,
            )
            images = fixtures.tiny_task()
            with torch.inference_mode():
                measured = _rank(model(images.val_inputs), images.val_labels)
            expected = task.score(combined.state)
            near = math.isclose(measured[0], expected[0], abs_tol=0.02)
            demand(near, f"reloaded it scores {measured[0]:.3f}, measured was {expected[0]:.3f}")

    def test_any_number_of_classes(self) -> None:
        """Two, three and thirty classes: the structure stays that of the members."""
        info = self._laboratory.info(fixtures.CNN)
        trunk = self._laboratory.pretrained(fixtures.CNN).trunk.state_dict()
        source = {f"trunk.{name}": tensor for name, tensor in trunk.items()}
        default = self._laboratory.strategy.default(info)
        for classes in CLASS_COUNTS:
            members = []
            for number in range(2):
                torch.manual_seed(number)
                model = Backbone(self._laboratory.pretrained(fixtures.CNN), *fixtures.classes(classes))
                self._laboratory.strategy.restore(model, default)
                state = model.state_dict()
                value = _scored(fixtures.CNN, default, state, classes)
                members.append(Member(number, TRAINED_BY, default, value, _holding(state)))
            members.sort(key=lambda member: member.score, reverse=True)
            measured = functools.partial(_scored, fixtures.CNN, default, classes=classes)
            combined = self._combine(CombinationTask(info, members, source, measured))
            alike = combined is None or _form(combined.state) == _form(members[0].state())
            demand(alike, f"of {classes} classes it makes another structure")

    def _combined(self, backbone: str) -> Combined | None:
        if backbone not in self._made:
            self._made[backbone] = self._combine(self._task(backbone))
        return self._made[backbone]

    def _combine(self, task: CombinationTask) -> Combined | None:
        combined = registry.combination(self._name).combine(task)
        ours = combined is None or isinstance(combined, Combined)
        demand(ours, f"combine() returned {kind_of(combined)}")
        return combined

    def _task(self, backbone: str) -> CombinationTask:
        """Models trained at several learning rates, best first."""
        info = self._laboratory.info(backbone)
        default = {**self._laboratory.strategy.default(info), "freeze_depth": 0.25}
        trunk = self._laboratory.pretrained(backbone).trunk.state_dict()
        source = {f"trunk.{name}": tensor for name, tensor in trunk.items()}
        members = []
        for number, rate in enumerate(RATES):
            params = {**default, "learning_rate": rate}
            run = self._laboratory.run(backbone, params)
            if run.outcome.artifact is None:
                raise AssertionError(f"a member couldn't be trained: {run.outcome.reason}")
            state = {**source, **load_file(Path(run.outcome.artifact.uri))}
            score_ = _scored(backbone, params, state)
            members.append(Member(number, TRAINED_BY, params, score_, _holding(state)))
        members.sort(key=lambda member: member.score, reverse=True)

        def measured(state: State) -> Score:
            return _scored(backbone, default, state)

        return CombinationTask(info, members, source, measured)


def check_combination(combination: str | Combination) -> list[CheckResult]:
    """Run the contract of a combination, without pytest.

    Raises:
        UnknownNameError: nothing installed goes by that name.
    """
    return checked(CombinationContract, combination=combination)


def _scored(backbone: str, params: Params, state: State, classes: int = fixtures.CLASSES) -> Score:
    model = rebuild(
        backbone=backbone,
        weights="random",
        image_size=None,
        strategy=TRAINED_BY,
        params=params,
        **fixtures.learned(classes),
        state=state,
        complete=True,
    )
    task = fixtures.tiny_task()
    with torch.inference_mode():
        return _rank(model(task.val_inputs), task.val_labels % classes)


def _holding(state: State) -> Callable[[], State]:
    return lambda: dict(state)


def _rank(logits: Tensor, labels: Tensor) -> Score:
    return registry.task("classification").rank(fixtures.score(logits, labels), "accuracy")


def _form(state: State) -> Mapping[str, tuple[object, ...]]:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
