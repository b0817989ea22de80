"""Which plugins a study uses: those that it names, or all that are installed and suit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tlsearch import registry
from tlsearch.contracts import BackboneInfo, Combination, PlaceTask, Strategy
from tlsearch.errors import PluginError, SpecError
from tlsearch.records import PluginVersion
from tlsearch.search.space_validation import declared
from tlsearch.spec import StudySpec
from tlsearch.training.objective import name_of

NONE_APPLIES = "No installed strategy applies to this study."


def resolve_strategies(spec: StudySpec) -> tuple[dict[str, Strategy], list[str]]:
    """The strategies of a study: those that it names, or all that are installed and apply.

    Returns:
        Strategies by name, in the order in which they are to be tried, and a sentence for each that was left
        out.

    Raises:
        UnknownNameError, PluginError: a strategy that the study names can't be had.
        SpecError: one needs source data that the study doesn't have, or none is left.
    """
    return (_named(spec), []) if spec.strategies is not None else _installed(spec)


def _named(spec: StudySpec) -> dict[str, Strategy]:
    """The strategies that a study names, each of which must suit it."""
    found = {name: registry.strategy(name) for name in spec.strategies or () if not _combines(name)}
    if not found:
        raise SpecError(
            "strategies: combinations only combine trials, and nothing is named that trains any.",
            hint="Name a strategy too, such as fine_tune, or leave the list out.",
        )
    task = name_of(spec)
    maps = isinstance(registry.task(task), PlaceTask)
    for name, strategy in found.items():
        if strategy.requires_source and spec.source_data is None:
            raise SpecError(
                f'strategies: "{name}" trains on source data too, and the study has no source_data.',
                hint="Add a source_data section, described like data, or leave the strategy out.",
            )
        if strategy.tasks and task not in strategy.tasks:
            raise SpecError(
                f'strategies: "{name}" works for {" and ".join(strategy.tasks)} only, not for {task}.',
                hint="Leave the strategy out.",
            )
        if maps and not strategy.maps:
            raise SpecError(
                f'strategies: "{name}" learns from pooled features, and {task} needs feature maps.',
                hint="Leave the strategy out, or use fine_tune.",
            )
    return {name: strategy.for_task(task) for name, strategy in found.items()}


def _installed(spec: StudySpec) -> tuple[dict[str, Strategy], list[str]]:
    """All installed strategies that suit a study, and a sentence for each that is broken."""
    task = name_of(spec)
    maps = isinstance(registry.task(task), PlaceTask)
    found: dict[str, Strategy] = {}
    skipped = []
    for name in registry.installed(registry.STRATEGIES):
        try:
            strategy = registry.strategy(name)
        except PluginError as error:
            # A broken plugin that nobody asked for harms no other; but it is said.
            skipped.append(f"left out: {error.message}")
            continue
        if strategy.requires_source and spec.source_data is None:
            continue
        if (strategy.tasks and task not in strategy.tasks) or (maps and not strategy.maps):
            continue
        found[name] = strategy.for_task(task)
    if not found:
        raise SpecError(NONE_APPLIES, hint="See `tlsearch plugins strategies`.")
    return dict(sorted(found.items(), key=lambda item: (item[1].precedence, item[0]))), skipped


def resolve_combinations(spec: StudySpec) -> tuple[dict[str, Combination], list[str]]:
    """The combinations of a study: those among the strategies that it names, or all that are installed.

    Returns:
        Combinations by name, and a sentence for each that was left out.

    Raises:
        PluginError: one that the study names can't be had.
    """
    if spec.strategies is not None:
        return {name: registry.combination(name) for name in spec.strategies if _combines(name)}, []
    found: dict[str, Combination] = {}
    skipped = []
    for name in registry.installed(registry.COMBINATIONS):
        try:
            found[name] = registry.combination(name)
        except PluginError as error:
            skipped.append(f"left out: {error.message}")
    return found, skipped


def _combines(name: str) -> bool:
    installed = registry.installed
    return name in installed(registry.COMBINATIONS) and name not in installed(registry.STRATEGIES)


def usable(
    strategies: Mapping[str, Strategy], backbones: Sequence[BackboneInfo]
) -> tuple[dict[str, Strategy], list[str]]:
    """Strategies that nobody named, without those whose space is wrong, and a sentence for each of these.

    Raises:
        SpecError: none is left.
    """
    kept, skipped = {}, []
    for name, strategy in strategies.items():
        try:
            for info in backbones:
                declared(name, strategy, info)
        except PluginError as error:
            skipped.append(f"left out: {error.message}")
        else:
            kept[name] = strategy
    if not kept:
        raise SpecError(NONE_APPLIES, hint="\n".join(skipped))
    return kept, skipped


def versions_of(
    spec: StudySpec, strategies: Mapping[str, Strategy], combinations: Mapping[str, Combination]
) -> tuple[PluginVersion, ...]:
    """The plugins that a study uses, with the packages that they come from and their versions."""
    used = [(registry.STRATEGIES, name) for name in strategies]
    used += [(registry.COMBINATIONS, name) for name in combinations]
    used += [(registry.BACKBONES, name) for name in spec.families]
    used += [
        (registry.DATASETS, described.source)
        for described in (spec.data, spec.source_data)
        if described is not None
    ]
    used.append((registry.TASKS, name_of(spec)))
    return tuple(registry.version_of(group, name) for group, name in dict.fromkeys(used))
