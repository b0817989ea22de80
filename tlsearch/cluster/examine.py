"""What a node finds out about itself before a search; runs there as a task, and knows nothing of Ray."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tlsearch import artifacts, plugin_faults, registry
from tlsearch.counts import plural
from tlsearch.errors import TlsearchError
from tlsearch.spec import DataSpec, StudySpec

CORE = ("tlsearch", "torch", "torchvision", "timm", "scikit-learn", "safetensors")
"""Packages whose versions decide what a trial comes to; Ray looks after its own."""
PRETRAINED = ("pretrained", "random")


@dataclass(frozen=True, slots=True)
class Needs:
    """What a study needs of a node. ``plugins`` are groups and names; ``meeting`` is a place for a note."""

    spec: StudySpec
    plugins: tuple[tuple[str, str], ...]
    meeting: str


@dataclass(slots=True)
class Found:
    """Versions by package, and problems, each with its remedy."""

    packages: dict[str, str]
    problems: list[tuple[str, str]] = field(default_factory=list)


def examine(needs: Needs, name: str) -> Found:
    """Look for packages, plugins, weights and data, and leave a note named after the node."""
    found = Found(packages(needs.plugins))
    for group, plugin in needs.plugins:
        try:
            problem = registry.problem(group, plugin)
        except TlsearchError as error:
            problem = error.message
        if problem:
            remedy = "Install the plugin's package, in the same version on all nodes."
            found.problems.append((problem, remedy))
    for backbone in needs.spec.backbones:
        if backbone.weights not in PRETRAINED and not Path(backbone.weights).is_file():
            remedy = "Put the weights where all nodes see them under this path."
            found.problems.append((f"there are no weights {backbone.weights}.", remedy))
    for section, described in (("data", needs.spec.data), ("source_data", needs.spec.source_data)):
        problem = _unreadable(described) if described is not None else ""
        if problem:
            remedy = "Mount the data under the same path on all nodes."
            found.problems.append((f"{section}: {problem}", remedy))
    try:
        note = artifacts.join(needs.meeting, f"{name}.txt")
        artifacts.put(note, lambda draft: draft.write_text(name))
    except (OSError, TlsearchError) as error:
        remedy = "Make it writable there for the user that runs Ray, or give another with --artifacts."
        found.problems.append((f"the artifact store can't be written to: {error}.", remedy))
    return found


def packages(plugins: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Versions of Python, of what decides results, and of the packages that bring plugins."""
    versions = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in CORE:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    for group, name in plugins:
        plugin = registry.installed(group).get(name)
        if plugin is not None:
            versions[plugin.distribution] = plugin.version
    return versions


def try_batch(spec: StudySpec, name: str, cuda: bool) -> tuple[int, int]:
    """Train one batch of a backbone, all of it, on the largest batch that the study may ask for.

    Returns:
        Items asked for, and how many fit into memory at a time.

    Raises:
        TrialError: not even one fits.
    """
    import torch

    from tlsearch.contracts import Backbone, TargetSpec
    from tlsearch.errors import TrialError
    from tlsearch.training.objective import task_of

    weights = next(backbone.weights for backbone in spec.backbones if backbone.name == name)
    pretrained = registry.backbone(
        name, weights=weights, image_size=spec.data.image_size, pixels=spec.data.pixels
    )
    device = torch.device("cuda" if cuda else "cpu")
    model = (
        Backbone(pretrained, task_of(spec), TargetSpec(("one", "other")))
        .requires_grad_(True)
        .to(device)
        .train()
    )
    inputs = pretrained.info.inputs
    asked = fits = _largest_batch(spec)
    while True:
        try:
            batch = inputs.to_model(inputs.example(fits)).to(device)
            torch.autograd.backward(model(batch).float().square().mean())
            return asked, fits
        except torch.OutOfMemoryError:
            if fits == 2:  # batch normalization has no statistics of a single item
                raise TrialError(f"out of memory with {plural(fits, 'item')} at a time") from None
            model.zero_grad(set_to_none=True)
            fits = max(2, fits // 2)


def _largest_batch(spec: StudySpec) -> int:
    """Of the study file where it says so, else of a recipe."""
    from tlsearch.contracts import Recipe

    sizes = [Recipe().batch_size]
    for hyperparameter, override in spec.space.items():
        if hyperparameter.rpartition(".")[2] == "batch_size":
            given = (override.low, override.high, override.value, *(override.choices or ()))
            sizes += [int(size) for size in given if isinstance(size, int | float)]
    return max(sizes)


def _unreadable(described: DataSpec) -> str:
    """Why a data section can't be read here; empty where it can."""
    options = registry.dataset(described.source).options
    try:
        samples = plugin_faults.samples(described.source, options.model_validate(described.options))
        for item in (samples.items[0], samples.items[len(samples.items) - 1]):
            if isinstance(item, Path):
                with item.open("rb") as file:
                    file.read(1)
    except (TlsearchError, OSError) as error:
        return error.message if isinstance(error, TlsearchError) else f"{error}."
    return ""
