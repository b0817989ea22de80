"""Entry points -> strategies, backbones, data sets: lazy, and one broken plugin harms no other.

Listing reads metadata alone; a plugin's code runs when it is asked for by name. Whatever it does then (raise,
exit, print) stays with it and is reported with its package and version.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import io
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tlsearch.errors import PluginError, UnknownNameError, did_you_mean
from tlsearch.records import PluginVersion

if TYPE_CHECKING:
    from tlsearch.contracts import BackboneFamily, DatasetSource, Pretrained, Strategy

STRATEGIES = "tlsearch.strategies"
BACKBONES = "tlsearch.backbones"
DATASETS = "tlsearch.datasets"
UNKNOWN = "unknown"
GROUPS = (STRATEGIES, BACKBONES, DATASETS)

_KINDS = {STRATEGIES: "strategy", BACKBONES: "backbone family", DATASETS: "data set source"}
_COMMANDS = {
    STRATEGIES: "`tlsearch strategies`",
    BACKBONES: "`tlsearch backbones`",
    DATASETS: "`tlsearch datasets`",
}

Plugin = TypeVar("Plugin")


@dataclass(frozen=True, slots=True)
class Installed:
    """An entry point, not loaded. ``clashes`` names other distributions that claim the same name."""

    group: str
    name: str
    target: str
    distribution: str
    version: str
    clashes: tuple[str, ...] = ()


@functools.cache
def installed(group: str) -> dict[str, Installed]:
    """What is installed in a group, by name; metadata only, no plugin code runs."""
    found: dict[str, list[Installed]] = defaultdict(list)
    owners: set[str] = set()
    for distribution in importlib.metadata.distributions():
        try:
            points = distribution.entry_points.select(group=group)
        except Exception:  # noqa: BLE001 - a package with damaged metadata harms no other
            continue
        if not points:
            continue
        owner, version = _identity(distribution)
        # The same distribution may stand twice on the path (an editable install beside its build).
        if owner in owners and owner != UNKNOWN:
            continue
        owners.add(owner)
        for point in points:
            found[point.name].append(Installed(group, point.name, point.value, owner, version))
    return {
        name: replace(first, clashes=tuple(f"{other.distribution} ({other.target})" for other in others))
        for name, (first, *others) in sorted(found.items())
    }


def strategy(name: str) -> Strategy:
    """The strategy of that name.

    Raises:
        UnknownNameError: nothing installed goes by it.
        PluginError: it can't be used.
    """
    return cast("Strategy", _load(STRATEGIES, name))


def dataset(name: str) -> DatasetSource[Any]:
    """The data set source of that name; raises like `strategy`."""
    return cast("DatasetSource[Any]", _load(DATASETS, name))


def backbone_family(name: str) -> BackboneFamily:
    """The backbone family of that name (the part before the slash); raises like `strategy`."""
    return cast("BackboneFamily", _load(BACKBONES, name))


def backbone(name: str, *, weights: str, image_size: int | None) -> Pretrained:
    """Load a backbone by its whole name, ``family/variant``.

    Raises:
        UnknownNameError: no such family or variant.
        WeightsError: its weights can't be had.
        PluginError: the plugin can't be used.
    """
    family, _, variant = name.partition("/")
    return backbone_family(family).load(variant, weights=weights, image_size=image_size)


def version_of(group: str, name: str) -> PluginVersion:
    """Which distribution a plugin comes from."""
    plugin = _find(group, name)
    return PluginVersion(group=group, name=name, distribution=plugin.distribution, version=plugin.version)


def _identity(distribution: importlib.metadata.Distribution) -> tuple[str, str]:
    """Name and version, which a damaged installation may lack."""
    try:
        name, version = distribution.metadata["Name"], distribution.metadata["Version"]
    except Exception:  # noqa: BLE001 - later Pythons raise where METADATA is missing
        return UNKNOWN, UNKNOWN
    return name or UNKNOWN, version or UNKNOWN


def _find(group: str, name: str) -> Installed:
    plugins = installed(group)
    if name not in plugins:
        suggestion = did_you_mean(name, plugins)
        raise UnknownNameError(
            f'Unknown {_KINDS[group]} "{name}". {suggestion}'.strip(),
            hint=f"{_COMMANDS[group]} lists what is installed.",
        )
    plugin = plugins[name]
    if plugin.clashes:
        raise PluginError(
            f'Two packages bring a {_KINDS[group]} called "{name}": {plugin.distribution} '
            f"({plugin.target}) and {', '.join(plugin.clashes)}.",
            hint="Uninstall one of them.",
        )
    return plugin


@functools.cache
def _load(group: str, name: str) -> object:
    from tlsearch import contracts

    plugin = _find(group, name)
    base: Any = {
        STRATEGIES: contracts.Strategy,
        BACKBONES: contracts.BackboneFamily,
        DATASETS: contracts.DatasetSource,
    }[group]
    who = f"{_KINDS[group]} {name!r} of {plugin.distribution} {plugin.version}"
    point = importlib.metadata.EntryPoint(name=name, value=plugin.target, group=group)
    # What a plugin prints while it is imported must not get into a JSON document on stdout.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            kind = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit: a plugin must not end us
            raise _broken(who, plugin, f"can't be imported: {_short(error)}") from error
        if not (inspect.isclass(kind) and issubclass(kind, base)):
            raise _broken(who, plugin, f"({plugin.target}) is not a subclass of {base.__name__}")
        version = getattr(kind, "api_version", None)
        if version != contracts.API_VERSION:
            raise _broken(
                who,
                plugin,
                f"was written for version {version} of the plugin contract; this tlsearch speaks "
                f"version {contracts.API_VERSION}",
            )
        try:
            return kind()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise _broken(who, plugin, f"can't be constructed: {_short(error)}") from error


def _broken(who: str, plugin: Installed, what: str) -> PluginError:
    return PluginError(
        f"The {who} {what}.",
        hint=f"Upgrade it, or `pip uninstall {plugin.distribution}`; the rest works on.",
    )


def _short(error: BaseException) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
