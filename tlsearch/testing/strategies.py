"""The contract of a strategy, as tests to inherit."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from tlsearch import registry
from tlsearch.contracts import Backbone, HeadStrategy, Recipe, Space, Strategy
from tlsearch.contracts.fine_tuning import rate_factor
from tlsearch.counts import kind_of, plural
from tlsearch.errors import PluginError
from tlsearch.models.rebuild import rebuild
from tlsearch.records import Params, Point, Scalar
from tlsearch.search.space import Branch, draw
from tlsearch.search.space_validation import declared, inside
from tlsearch.testing import fixtures
from tlsearch.testing.contract import CheckResult, Contract, checked, demand, in_fresh_process, skip
from tlsearch.testing.demands import BACKBONES, check_groups, check_logits, compare, marks, short_name
from tlsearch.testing.given import misspelt_hooks, refuse_params
from tlsearch.testing.trial_harness import Laboratory, Run, calm, probe

UNDER_TEST = "strategy_under_test"
OPTIMIZERS = ("adamw", "sgd")
DRAWS = 8
FEW_EPOCHS = 4
WIDE_DRAWS = 64
CLASS_COUNTS = (2, 3, 30)
SCORE_TOLERANCE = 0.01
"""Rounding may turn the answer of an item, of about a hundred."""
WORSE_THAN_CHANCE = 0.4
"""Share of chance's accuracy at which a model of two classes answers the wrong way round."""


class StrategyContract(Contract):
    """All that a strategy promises. Inherit it, say which one, and let pytest run it.

    Attributes:
        strategy: the name of its entry point, or an instance of a class whose module can be imported.
        params: values that the training checks give to hyperparameters instead of the default's.
        epochs: of a training run.
        above: accuracy on the validation split that a training run must reach; chance is 0.1.
    """

    strategy: ClassVar[str | Strategy]
    params: ClassVar[Mapping[str, Scalar]] = {}
    epochs: ClassVar[int] = 12
    above: ClassVar[float] = 0.25

    _laboratory: ClassVar[Laboratory]

    @classmethod
    def _find(cls) -> None:
        """Make a laboratory for the strategy."""
        name = cls.strategy
        if not isinstance(name, str):
            cls._stack.enter_context(fixtures.installed(strategies={UNDER_TEST: type(name)}))
            name = UNDER_TEST
        registry.strategy(name)
        cls._laboratory = Laboratory(name, cls._folder, cls.epochs)
        if cls.params:
            with contextlib.suppress(AssertionError):  # of a wrong space the first check tells
                refuse_params(name, cls.params, [cls()._hyperparameters(one) for one in BACKBONES])

    def test_hooks(self) -> None:
        """No method is called nearly as a hook is: it would never be called."""
        for name, hook in misspelt_hooks(type(self._laboratory.strategy)).items():
            raise AssertionError(
                f"{name} is no hook: did you mean {hook}? The name of a method of your own may begin with _"
            )

    def test_space_and_starts(self) -> None:
        """Hyperparameters are Optuna distributions of valid names; the default and the starts lie inside."""
        for backbone in BACKBONES:
            branch = self._branch(backbone)
            ranges = plural(len(branch.hyperparameters), "range")
            self.note(f"{ranges}, {plural(len(branch.starts), 'start')} ({short_name(backbone)})")

    def test_recipes(self) -> None:
        """Every point of the space spells a recipe that the training loop can follow, and a grace."""
        strategy = self._laboratory.strategy
        for backbone, params in self._points():
            inputs = self._laboratory.info(backbone).inputs
            recipe = strategy.recipe(params)
            where = f"recipe({params})"
            demand(isinstance(recipe, Recipe), f"{where} is {kind_of(recipe)}, not a Recipe")
            demand(recipe.batch_size >= 1, f"{where}: batch_size is {recipe.batch_size}")
            rate = recipe.learning_rate
            demand(rate > 0 and math.isfinite(rate), f"{where}: learning_rate is {rate}")
            demand(recipe.optimizer in OPTIMIZERS, f'{where}: unknown optimizer "{recipe.optimizer}"')
            policies = [*inputs.policies, *(["mixup"] if inputs.blendable else [])]
            demand(
                recipe.augmentation in policies,
                f'{where}: the input knows no augmentation "{recipe.augmentation}", only {policies}',
            )
            grace = strategy.grace(self.epochs, params)
            whole = isinstance(grace, int) and not isinstance(grace, bool) and grace >= 0
            demand(whole, f"grace({self.epochs}, {params}) is {grace!r}, not a number of epochs")

    def test_prepare(self) -> None:
        """It depends on its arguments alone, leaves them as they are, and marks something to train."""
        strategy = self._laboratory.strategy
        for backbone, params in self._points():
            where = f"prepare() with {params} on {short_name(backbone)}"
            first = self._prepared(strategy, backbone, params)
            self._prepared(strategy, _other(backbone), self._branch(_other(backbone)).starts[0])
            second = self._prepared(type(strategy)(), backbone, params)
            demand(marks(first) == marks(second), f"{where} marks other parameters the second time")
            states = first.state_dict(), second.state_dict()
            demand(list(states[0]) == list(states[1]), f"{where} makes another structure the second time")
            odd = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
            demand(not odd, f"{where} makes other values of {odd[:3]} under the same seed")
            if isinstance(strategy, HeadStrategy):
                continue
            strategy.on_epoch(first, 1, self.epochs, params)
            demand(any(marks(first).values()), f"{where} marks nothing to train, nor does on_epoch(1)")
            check_groups(first, strategy.param_groups(first, params), where)
            with torch.no_grad():
                output = first.eval()(probe()[:2])
            logits = output[0] if isinstance(output, tuple) else output
            check_logits(logits, 2, f"the model after {where}")

    def test_trains(self) -> None:
        """A trial completes and is better than chance, on a CNN and on a ViT."""
        for backbone in BACKBONES:
            run = self._run(backbone)
            value = run.outcome.value or 0.0
            demand(
                value >= self.above,
                f"accuracy {value:.2f} on {short_name(backbone)} after {plural(len(run.results), 'epoch')}; "
                f"{self.above:g} is wanted, chance is 0.1",
            )
            self.note(f"accuracy {value:.2f} ({short_name(backbone)})")

    def test_finish(self) -> None:
        """The finished model returns plain logits: a finite tensor (B, classes)."""
        for backbone in BACKBONES:
            check_logits(self._run(backbone).output, len(probe()), f"the finished {short_name(backbone)}")

    def test_recorded_score(self) -> None:
        """The recorded scores are those of the finished model, saved and reloaded."""
        for backbone in BACKBONES:
            run = self._run(backbone)
            images, labels = run.validation
            again = fixtures.score(self._reloaded(run, fixtures.CLASSES)(images), labels)
            for name, recorded in run.outcome.metrics.items():
                demand(
                    abs(again[name] - recorded) <= SCORE_TOLERANCE * max(1.0, abs(recorded)),
                    f"{name} of {short_name(backbone)} is recorded as {recorded:.4f}, and the model that is "
                    f"handed out has {again[name]:.4f}",
                )

    def test_any_number_of_classes(self) -> None:
        """Two, three and thirty classes, as large as each other and not: a trial completes and reloads."""
        points = list(self._few_points())
        for classes, equal in itertools.product(CLASS_COUNTS, (True, False)):
            digits = {"classes": classes, "equal": equal, "count": min(300, 75 * classes)}
            of = f"of {classes} {'equal' if equal else 'unequal'} classes"
            for run in self._laboratory.train(points, epochs=2, digits=digits):
                self._ended_well(run, of)
                where = f"the model {of} with {dict(run.point.params)}"
                check_logits(run.output, len(probe()), where, classes)
                value = run.outcome.value or 0.0
                demand(
                    value > WORSE_THAN_CHANCE / classes,
                    f"{where} has a balanced accuracy of {value:.2f}: worse than chance",
                )
                compare(run.output, self._reloaded(run, classes)(probe()), f"{where}, reloaded", 1e-4)
        self.note(f"{plural(len(points), 'point')} each")

    def test_reloads(self) -> None:
        """A saved model, rebuilt by name, predicts what the trained one did."""
        for backbone in BACKBONES:
            run = self._run(backbone)
            again = self._reloaded(run, fixtures.CLASSES)(probe())
            compare(run.output, again, f"{short_name(backbone)}, saved and reloaded", 1e-4)

    def test_reloads_in_another_process(self) -> None:
        """A fresh process finds it by name, sees the same space, and predicts the same with saved models."""
        runs = [self._run(backbone) for backbone in BACKBONES]
        strategy = self._laboratory.strategy
        saved = [
            {"backbone": run.point.backbone, "params": dict(run.point.params), "path": str(_saved(run))}
            for run in runs
        ]
        found = in_fresh_process(
            self._folder, {"kind": "strategy", "name": self._laboratory.name, "saved": saved}
        )
        for run, space, logits in zip(runs, found["spaces"], found["logits"], strict=True):
            backbone = run.point.backbone
            own = repr(sorted(strategy.space(self._laboratory.info(backbone)).items()))
            demand(space == own, f"the space for {short_name(backbone)} is another one in a fresh process")
            compare(run.output, torch.tensor(logits), f"{short_name(backbone)} in a fresh process", 1e-4)

    def test_cache_is_exact(self) -> None:
        """Trained on stored outputs of the frozen layers, it is the model that it is without the store."""
        for backbone in BACKBONES:
            params = calm(self._params(backbone), self._hyperparameters(backbone))
            cached = self._ended_well(self._laboratory.run(backbone, params, epochs=FEW_EPOCHS))
            if not cached.outcome.cache.startswith("prefix"):
                self.note(f"no cache: {cached.outcome.cache.removeprefix('none: ')} ({short_name(backbone)})")
            plain = self._ended_well(self._laboratory.run(backbone, params, cached=False, epochs=FEW_EPOCHS))
            compare(cached.output, plain.output, f"{short_name(backbone)}, with and without the cache", 1e-4)

    def test_same_seed_same_model(self) -> None:
        """The same seed gives the same model again."""
        for backbone in BACKBONES:
            params = self._params(backbone)
            again = self._ended_well(self._laboratory.run(backbone, params, copy="again"))
            compare(self._run(backbone).output, again.output, f"{short_name(backbone)}, trained twice", 1e-5)

    def test_source_data(self) -> None:
        """Where it requires source data, every batch brings some; else none does."""
        strategy = self._laboratory.strategy
        run = self._run(fixtures.CNN)
        if isinstance(strategy, HeadStrategy):
            demand(not strategy.requires_source, "fit_heads is given no source data: requires_source is vain")
            self.note("needs none")
        elif strategy.requires_source:
            demand(run.sources and min(run.sources) > 0, "a batch came without source items")
            self.note(f"{min(run.sources)} to {max(run.sources)} source items in a batch")
        else:
            demand(not any(run.sources), "source items came unasked")
            self.note("needs none")

    def test_many_heads_at_once(self) -> None:
        """A head strategy fits many points in one call as it fits each alone."""
        strategy = self._laboratory.strategy
        if not isinstance(strategy, HeadStrategy):
            raise skip("it is no head strategy")
        for backbone in BACKBONES:
            branch = self._branch(backbone)
            chance = random.Random(1)
            chosen = [self._params(backbone), *(draw(branch, chance) for _ in range(2))]
            points = [
                Point(number=number, backbone=backbone, strategy=self._laboratory.name, params=p, seed=number)
                for number, p in enumerate(chosen)
            ]
            together = self._laboratory.train(points)
            for point, run in zip(points, together, strict=True):
                (alone,) = self._laboratory.train([replace(point, number=0)])
                states = run.outcome.state, alone.outcome.state
                demand(
                    states[0] is states[1],
                    f"{dict(point.params)} is {states[1]} alone and {states[0]} with others",
                )
                if run.complete:
                    compare(alone.output, run.output, f"{dict(point.params)}, alone and with others", 1e-2)

    def _branch(self, backbone: str) -> Branch:
        """The space for a tiny backbone, known to be right."""
        strategy = self._laboratory.strategy
        try:
            own = declared(self._laboratory.name, strategy, self._laboratory.info(backbone))
        except PluginError as error:
            raise AssertionError(error.message) from None
        return Branch(
            backbone,
            self._laboratory.name,
            own.hyperparameters,
            own.starts,
            isinstance(strategy, HeadStrategy),
        )

    def _hyperparameters(self, backbone: str) -> Space:
        return self._branch(backbone).hyperparameters

    def _params(self, backbone: str) -> dict[str, Scalar]:
        """The point that is trained.

        A tiny transformer has learned nothing that the low rates usual for transformers would keep: in a few
        epochs it would not move. Nor are these enough to learn from pictures that are cropped and turned.
        """
        info = self._laboratory.info(backbone)
        default = dict(self._laboratory.strategy.default(info))
        hyperparameters = self._branch(backbone).hyperparameters
        rate = default.get("learning_rate")
        if isinstance(rate, float) and rate_factor(info) < 1:
            faster = rate / rate_factor(info)
            if inside(hyperparameters["learning_rate"], faster):
                default["learning_rate"] = faster
        if default.get("augmentation") == "light" and inside(hyperparameters["augmentation"], "flip"):
            default["augmentation"] = "flip"
        return {**default, **self.params}

    def _points(self) -> Iterator[tuple[str, Params]]:
        """The starts, and points drawn by chance, for each tiny backbone; read-only."""
        for backbone in BACKBONES:
            branch = self._branch(backbone)
            chance = random.Random(0)
            for params in [*branch.starts, *(draw(branch, chance) for _ in range(DRAWS))]:
                yield backbone, MappingProxyType(dict(params))

    def _prepared(self, strategy: Strategy, backbone: str, params: Params) -> Backbone:
        pretrained = self._laboratory.pretrained(backbone)
        sources = fixtures.classes(fixtures.CLASSES)[1] if strategy.requires_source else None
        torch.manual_seed(3)
        model = Backbone(pretrained, *fixtures.classes(fixtures.CLASSES), sources)
        before = dict(params)
        strategy.prepare(model, params)
        demand(dict(params) == before, "prepare() changes the params that it is given")
        return model

    def _few_points(self) -> Iterator[Point]:
        """The point that is trained; of a head strategy one for each choice of a hyperparameter besides."""
        strategy, branch = self._laboratory.strategy, self._branch(fixtures.CNN)
        params: list[Params] = [self._params(fixtures.CNN)]
        if isinstance(strategy, HeadStrategy):
            chance = random.Random(2)
            params += branch.starts
            drawn = [draw(branch, chance) for _ in range(WIDE_DRAWS)]
            for hyperparameter, distribution in branch.hyperparameters.items():
                for choice in getattr(distribution, "choices", ()):
                    if all(known.get(hyperparameter) != choice for known in params):
                        params += [one for one in drawn if one.get(hyperparameter) == choice][:1]
        distinct = [one for number, one in enumerate(params) if one not in params[:number]]
        for number, one in enumerate(distinct):
            yield Point(
                number=number, backbone=fixtures.CNN, strategy=self._laboratory.name, params=one, seed=0
            )

    def _reloaded(self, run: Run, classes: int) -> Callable[[Tensor], Tensor]:
        """What a trial saved, rebuilt by name."""
        model = rebuild(
            backbone=run.point.backbone,
            weights="pretrained",
            image_size=None,
            strategy=self._laboratory.name,
            params=run.point.params,
            **fixtures.learned(classes),
            state=load_file(_saved(run)),
        )
        return torch.inference_mode()(model)

    def _run(self, backbone: str) -> Run:
        return self._ended_well(self._laboratory.run(backbone, self._params(backbone)))

    def _ended_well(self, run: Run, of: str = "") -> Run:
        where = f"{short_name(run.point.backbone)}{of and ' ' + of + f' with {dict(run.point.params)}'}"
        demand(run.complete, f"the trial on {where} failed: {run.outcome.reason}")
        return run


def check_strategy(
    strategy: str | Strategy, *, params: Mapping[str, Scalar] | None = None
) -> list[CheckResult]:
    """Run the contract of a strategy, without pytest.

    Args:
        strategy: its name, or an instance of a class whose module can be imported.
        params: values that the training checks give to hyperparameters instead of the default's.

    Raises:
        UnknownNameError: nothing installed goes by that name.
        InputError: the strategy has no such hyperparameter, or none of that value.
    """
    return checked(StrategyContract, strategy=strategy, params=dict(params or {}))


def _other(backbone: str) -> str:
    return BACKBONES[1 - BACKBONES.index(backbone)]


def _saved(run: Run) -> Path:
    if run.outcome.artifact is None:
        raise AssertionError("the trial left no weights")
    return Path(run.outcome.artifact.uri)
