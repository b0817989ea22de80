"""Entry points -> plugins of every kind: lazy, and one broken plugin harms no other.

Listing reads metadata alone; a plugin's code runs when it is asked for by name. Whatever it does then (raise,
exit, print, hang) stays with it and is reported with its package and version.

A plugin is imported and constructed in a thread of its own, which is given up after `SECONDS`, or as many as
TLSEARCH_PLUGIN_SECONDS says. Python can't end a thread: the one given up is asked to (an exception is raised
in it), which ends a loop at its next step and a blocking call when that returns. Until then it holds the
import lock of the modules that it was importing, so nobody here imports them again: the plugin stays refused.

Where TLSEARCH_PLUGINS_ALLOWED names packages, plugins of no other package are imported, but tlsearch's own.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import inspect
import io
import math
import os
import re
import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from tlsearch.errors import InputError, PluginError, UnknownNameError, did_you_mean
from tlsearch.frames import own_frame
from tlsearch.limited import within
from tlsearch.records import LEAST_SIDE, MOST_SIDE, RGB, Pixels, PluginVersion

if TYPE_CHECKING:
    from tlsearch.contracts import BackboneFamily, Combination, DatasetSource, Pretrained, Strategy, Task

STRATEGIES = "tlsearch.strategies"
BACKBONES = "tlsearch.backbones"
DATASETS = "tlsearch.datasets"
COMBINATIONS = "tlsearch.combinations"
TASKS = "tlsearch.tasks"
UNKNOWN = "unknown"
GROUPS = (STRATEGIES, BACKBONES, DATASETS, COMBINATIONS, TASKS)
SECONDS = 60.0
"""How long a plugin may take to be imported and constructed."""
SIZED = re.compile(r"(?P<variant>.+)@(?P<size>[1-9][0-9]{1,3})")
"""A variant with pixels of a side behind it."""
SECONDS_VARIABLE = "TLSEARCH_PLUGIN_SECONDS"
ALLOWED_VARIABLE = "TLSEARCH_PLUGINS_ALLOWED"
REINSTALL = "If it is yours: a changed entry point counts once it is installed again, with `pip install -e`."

_KINDS = {
    STRATEGIES: "strategy",
    BACKBONES: "backbone family",
    DATASETS: "data set source",
    COMBINATIONS: "combination",
    TASKS: "task",
}
_COMMANDS = {
    STRATEGIES: "`tlsearch plugins strategies`",
    BACKBONES: "`tlsearch backbones`",
    DATASETS: "`tlsearch plugins datasets`",
    COMBINATIONS: "`tlsearch plugins strategies`",
    TASKS: "`tlsearch plugins`",
}


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
        PluginError: it can't be used, or takes too long to import.
    """
    return cast("Strategy", _load(STRATEGIES, name))


def dataset(name: str) -> DatasetSource[Any]:
    """The data set source of that name; raises like `strategy`."""
    return cast("DatasetSource[Any]", _load(DATASETS, name))


def combination(name: str) -> Combination:
    """The combination of that name; raises like `strategy`."""
    return cast("Combination", _load(COMBINATIONS, name))


def task(name: str) -> Task:
    """The task of that name; raises like `strategy`."""
    return cast("Task", _load(TASKS, name))


def backbone_family(name: str) -> BackboneFamily:
    """The backbone family of that name (the part before the slash); raises like `strategy`."""
    return cast("BackboneFamily", _load(BACKBONES, name))


def backbone(name: str, *, weights: str, image_size: int | None, pixels: Pixels = RGB) -> Pretrained:
    """Load a backbone by its whole name, ``family/variant``, for pictures of such pixels.

    Args:
        name: its own size of pictures may stand behind it, as in ``efficientnet_lite/lite0@96``.
        weights: ``pretrained``, ``random`` or a file.
        image_size: pixels of a side where the name has none; the backbone's own where both are left out.
        pixels: channels and bits of a picture.

    Raises:
        UnknownNameError: no such family or variant.
        WeightsError: its weights can't be had.
        PluginError: the plugin can't be used.
        InputError: it can't take such pictures, or nobody has pictures of such a size.
    """
    family, variant, size = _parts(name)
    found = backbone_family(family).load(variant, weights=weights, image_size=size or image_size)
    return _fit(_named(found, name) if size else found, pixels)


def families_of(variant: str) -> list[str]:
    """Whole names, ``family/variant``, of the installed backbones that have a variant of that name."""
    return [
        f"{family}/{variant}"
        for family in installed(BACKBONES)
        if not problem(BACKBONES, family) and variant in backbone_family(family).names()
    ]


def structure(
    name: str, *, image_size: int | None, architecture: Mapping[str, Any], pixels: Pixels = RGB
) -> Pretrained:
    """A backbone for a saved model's weights, by its whole name; asks no network and opens no named file.

    Raises:
        UnknownNameError: no such family or variant.
        PluginError: the plugin can't be used.
        InputError: it can't take such pictures.
    """
    family, variant, size = _parts(name)
    found = backbone_family(family).structure(
        variant, image_size=size or image_size, architecture=architecture
    )
    return _fit(_named(found, name) if size else found, pixels)


def _parts(name: str) -> tuple[str, str, int | None]:
    """Family, variant, and the size of pictures that the name ends in."""
    family, _, variant = name.partition("/")
    sized = SIZED.fullmatch(variant)
    if sized is None:
        return family, variant, None
    size = int(sized["size"])
    if not LEAST_SIDE <= size <= MOST_SIDE:
        raise InputError(
            f"{name}: pictures have {LEAST_SIDE} to {MOST_SIDE} pixels a side, not {size}.",
            hint="Write another number behind the @, or leave it out for the study's image_size.",
        )
    return family, sized["variant"], size


def _named(loaded: Pretrained, name: str) -> Pretrained:
    """One by the name that says its size too: at another size it is another choice of the search."""
    return replace(loaded, info=replace(loaded.info, name=name))


def _fit(loaded: Pretrained, pixels: Pixels) -> Pretrained:
    if pixels == RGB:
        return loaded
    from tlsearch.contracts.first_layer import adapted

    return adapted(loaded, pixels)


def problem(group: str, name: str) -> str | None:
    """What keeps a plugin from being used, in a sentence; None where it loads."""
    try:
        _load(group, name)
    except PluginError as error:
        return error.message
    return None


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
        # A study file names both in one list.
        known = {*plugins, *(installed(COMBINATIONS) if group == STRATEGIES else ())}
        suggestion = did_you_mean(name, known)
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


def described(group: str, name: str) -> str:
    """A plugin with its package and version, as errors and trials' reasons call it."""
    plugin = installed(group).get(name)
    return _called(plugin) if plugin else f"{_KINDS[group]} {name!r}"


def _called(plugin: Installed) -> str:
    return f"{_KINDS[plugin.group]} {plugin.name!r} of {plugin.distribution} {plugin.version}"


def forget() -> None:
    """Look again for what is installed, after the path has changed."""
    installed.cache_clear()
    _load.cache_clear()


@functools.cache
def _load(group: str, name: str) -> object:
    from tlsearch import contracts
    from tlsearch.contracts import (
        recipe,  # before any plugin's own thread: torch is imported only once, and here
    )

    plugin = _find(group, name)
    _refuse_unlisted(plugin)
    if plugin in _given_up:
        raise _broken(plugin, _given_up[plugin])
    base: Any = {
        STRATEGIES: contracts.Strategy,
        BACKBONES: contracts.BackboneFamily,
        DATASETS: contracts.DatasetSource,
        COMBINATIONS: contracts.Combination,
        TASKS: contracts.Task,
    }[group]

    def load() -> object:
        try:
            kind = importlib.metadata.EntryPoint(name=name, value=plugin.target, group=group).load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit: a plugin must not end us
            what = f"can't be imported: {_told(plugin, error)} (entry point {plugin.target})"
            raise _broken(plugin, what, author=REINSTALL) from error
        if not (inspect.isclass(kind) and issubclass(kind, base)):
            what = f"({plugin.target}) is not a subclass of {base.__name__}"
            raise _broken(plugin, what, author=REINSTALL)
        version = getattr(kind, "api_version", None)
        if version not in recipe.SPOKEN:
            raise _broken(
                plugin,
                f"was written for version {version} of the plugin contract; this tlsearch speaks "
                f"version {contracts.API_VERSION}",
            )
        if isinstance(tasks := getattr(kind, "tasks", ()), str):
            raise _broken(plugin, f"has tasks = {tasks!r}, a text; right is a tuple: tasks = ({tasks!r},)")
        try:
            return kind()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise _broken(plugin, f"can't be constructed: {_told(plugin, error)}") from error

    seconds = _patience()
    # What a plugin prints while it is imported must not get into a JSON document on stdout.
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            return within(seconds, load)
        except TimeoutError:
            _given_up[plugin] = (
                f"was given up after {seconds:g} s of importing ({SECONDS_VARIABLE} sets the limit)"
            )
            raise _broken(plugin, _given_up[plugin]) from None


_given_up: dict[Installed, str] = {}


def _refuse_unlisted(plugin: Installed) -> None:
    given = os.environ.get(ALLOWED_VARIABLE)
    if given is None:
        return
    allowed = {_normal(name) for name in given.split(",")} | {"tlsearch"}
    if _normal(plugin.distribution) not in allowed:
        raise PluginError(
            f"The {_called(plugin)} isn't allowed here: {ALLOWED_VARIABLE} doesn't name its package.",
            hint=f"Whoever trusts it may say {ALLOWED_VARIABLE}="
            + ",".join(filter(None, [given.strip(" ,"), plugin.distribution])),
        )


def _normal(distribution: str) -> str:
    """A package's name as PyPI compares them."""
    return re.sub(r"[-_.]+", "-", distribution.strip()).lower()


def _patience() -> float:
    given = os.environ.get(SECONDS_VARIABLE, "").strip()
    try:
        seconds = float(given) if given else SECONDS
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise InputError(f"{SECONDS_VARIABLE} must be a number of seconds above 0, not {given!r}.")
    return seconds


def _broken(plugin: Installed, what: str, *, author: str = "") -> PluginError:
    # Not looked up again: the thread of a plugin that was given up gets here late, and would put what it
    # finds on the path of then into `installed`, over what was found since.
    hint = f"Upgrade it, or `pip uninstall {plugin.distribution}`; the rest works on. {author}"
    return PluginError(f"The {_called(plugin)} {what}.", hint=hint.strip())


def _told(plugin: Installed, error: BaseException) -> str:
    """An error's kind and first line, and where in the plugin's code it came up."""
    place = own_frame(error, plugin.target.partition(":")[0])
    text = ": ".join([type(error).__name__, *str(error).splitlines()[:1]])
    return f"{text} at {place}" if place else text
