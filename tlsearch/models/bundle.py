"""A trained model as a folder: ``model.safetensors`` and ``bundle.json``; no pickle, checksums verified.

``bundle.json`` holds everything that is needed to predict as the study did: classes, preprocessing, the
backbone's and strategy's names and versions, and where the model came from. It names the SHA-256 of the
weights' file, whose header names that of the description: who pins the first has pinned both files.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tlsearch import artifacts, registry
from tlsearch.contracts import Backbone, InputSpec, TargetSpec, Task
from tlsearch.contracts.combination import structure_of
from tlsearch.contracts.verdict import VERDICTS
from tlsearch.errors import BundleError, DataError, TlsearchError, UnknownNameError
from tlsearch.files import flush_folder, scratch, sha256_of, write_durably
from tlsearch.items import items_of, missing
from tlsearch.models import abstention, stored
from tlsearch.models.ensemble import Ensemble, Part, joined, separated
from tlsearch.models.manifest import (
    DESCRIPTION,
    FORMAT,
    MANIFEST,
    WEIGHTS,
    Manifest,
    digest_of,
    read_manifest,
    temperature_of,
)
from tlsearch.models.prediction import Prediction
from tlsearch.models.rebuild import packages_of, restored
from tlsearch.records import Artifact, Params

__all__ = [
    "FORMAT",
    "MANIFEST",
    "WEIGHTS",
    "Manifest",
    "Model",
    "Prediction",
    "check",
    "digest_of",
    "load",
    "read_manifest",
    "write",
]

BATCH = 64
Network = Backbone | Ensemble


class Model:
    """A loaded bundle that predicts from raw items: paths, arrays, whatever its backbone encodes.

    A ``str`` is the path of an image.
    """

    def __init__(
        self,
        network: Network,
        inputs: InputSpec,
        manifest: Manifest,
        folder: Path,
        familiar: abstention.Familiar | None = None,
    ) -> None:
        self.network = network
        self.inputs = inputs
        self.manifest = manifest
        self.folder = folder
        self.familiar = familiar

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities."""
        return self.manifest.classes

    @property
    def task(self) -> Task:
        """What it was trained for."""
        return registry.task(self.manifest.task)

    @property
    def target_spec(self) -> TargetSpec:
        """What it puts out."""
        return self.manifest.target_spec

    @property
    def temperature(self) -> float:
        """What logits are divided by before they become probabilities; 1 where nothing was calibrated."""
        return temperature_of(self.manifest.calibration)

    @property
    def silent(self) -> str:
        """Why it can't say that it doesn't know; empty where it can, or isn't to."""
        return abstention.why_not(self.task, self.manifest, self.familiar)

    def probabilities(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the network's outputs mean: calibrated class probabilities (N, classes), or the task's own."""
        _, told = self.task.decode(torch.from_numpy(logits), self.target_spec, self.manifest.calibration)
        return np.asarray(told.numpy(), dtype=np.float32)

    def logits(self, items: Any) -> NDArray[np.float32]:
        """Logits (N, classes) of raw items, as the network gives them: not divided by the temperature.

        Args:
            items: one or many, of any type that `tlsearch.items.items_of` takes.

        Raises:
            DataError: items are broken, which are named, or aren't items.
        """
        found = items_of(items, modality=self.inputs.modality)
        if lacking := missing(found):
            raise DataError(_of(lacking, len(found.values)))
        _, logits, errors = self.readable(found.values)
        if errors:
            told = [f"{found.names[position]}: {why}" for position, why in errors.items()]
            raise DataError(_of(told, len(found.values)))
        return logits

    def predict_proba(self, items: Any) -> NDArray[np.float32]:
        """Class probabilities (N, classes) of raw items, as `logits` takes them, calibrated where it is."""
        return self.probabilities(self.logits(items))

    def predict(self, items: Any) -> list[Any]:
        """The answer to each raw item, as `logits` takes them: its most probable class, or a number.

        A list also of one.
        """
        decoded = self.probabilities(self.logits(items))
        return self.task.answers(decoded, self.target_spec, self.manifest.calibration)

    def readable(
        self, items: Sequence[object], network: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[list[int], NDArray[np.float32], dict[int, str]]:
        """Positions of the items that can be read, their logits, and what is wrong with the others.

        Another ``network`` in the place of the model's own may put out whatever has a row for each item.
        """
        kept: list[int] = []
        errors: dict[int, str] = {}
        parts: list[NDArray[np.float32]] = []
        for start, batch in _batches(items, min(BATCH, self.task.at_once)):
            encoded: list[NDArray[Any]] = []
            for position, item in enumerate(batch, start):
                try:
                    encoded.append(self.encode(item))
                    kept.append(position)
                except DataError as error:
                    errors[position] = error.message
            if encoded:
                parts.append(self.forward(np.stack(encoded), network))
        nothing = np.zeros((0, len(self.classes)), np.float32)
        return kept, np.concatenate(parts) if parts else nothing, errors

    def describe(self, items: Any, names: Sequence[str] | None = None) -> Iterator[Prediction]:
        """A `Prediction` for each item, in order; a broken one gets its error and ends nothing.

        Items are called by ``names``; without these a path or text by itself, another by its number.
        """
        if names is None:
            given = items_of(items, modality=self.inputs.modality)
            items, names = given.values, given.names
        for start, batch in _batches(items, min(BATCH, self.task.at_once)):
            kept, found, errors = self.readable(batch, self.look)
            told = dict(zip(kept, self.told(found), strict=True)) if kept else {}
            for position in range(len(batch)):
                name = names[start + position]
                if position in errors:
                    yield Prediction({"item": name, **self.task.unreadable, "error": errors[position]})
                else:
                    yield Prediction({"item": name, **told[position], "error": None})

    def look(self, inputs: Tensor) -> Tensor:
        """The network's outputs, with the distance to what it knows as one more column where it has that."""
        if self.familiar is None:
            outputs: Tensor = self.network(inputs)
            return outputs
        return self.familiar.look(self.network, inputs)

    def outputs_of(self, found: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's own outputs among what `look` found."""
        return found if self.familiar is None else found[:, :-1]

    def apart(
        self, found: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, NDArray[np.int64] | None]:
        """What `look` found of N items as decoded outputs, distances (N,) and numbers of `VERDICTS` (N,).

        Distances are multiples of the limit; they and verdicts are None where the model has none.
        """
        distances = None if self.familiar is None else found[:, -1]
        decoded = self.probabilities(self.outputs_of(found))
        if not abstention.gives_verdicts(self.manifest):
            return decoded, None, None
        far = None if distances is None else torch.from_numpy(distances)
        calibration = self.manifest.calibration
        given = abstention.verdicts(self.task, torch.from_numpy(decoded), far, calibration)
        return decoded, distances, given.numpy()

    def told(self, found: NDArray[np.float32]) -> list[Mapping[str, Any]]:
        """Predictions of N items as JSON holds them, of what `look` found."""
        decoded, distances, verdicts = self.apart(found)
        told: list[Mapping[str, Any]] = []
        for at, row in enumerate(decoded):
            one = dict(self.task.predict(row, self.target_spec, self.manifest.calibration))
            if verdicts is not None:
                one["verdict"] = VERDICTS[int(verdicts[at])]
            if distances is not None:
                one["distance"] = float(distances[at])
            told.append(one)
        return told

    def encode(self, item: object) -> NDArray[Any]:
        """One raw item as the array that `forward` takes a stack of.

        Raises:
            DataError: it is broken.
        """
        # People name pictures by strings; where strings are the items (text), they stay what they are.
        by_name = isinstance(item, str) and self.inputs.modality == "image"
        return self.inputs.encode(Path(str(item)) if by_name else item)

    def forward(
        self, encoded: NDArray[Any], network: Callable[[Tensor], Tensor] | None = None
    ) -> NDArray[np.float32]:
        """Logits (N, classes) of encoded items (N, *shape)."""
        device = next(self.network.parameters()).device
        with torch.inference_mode():
            logits = (network or self.network)(self.inputs.to_model(torch.from_numpy(encoded).to(device)))
        return np.asarray(logits.float().cpu().numpy(), dtype=np.float32)


def write(
    place: str | Path,
    *,
    network: Backbone | Sequence[Backbone],
    manifest: Mapping[str, Any],
    beside: Mapping[str, Tensor] | None = None,
) -> Artifact:
    """Write a bundle: whole or not at all, flushed to disk; an older one at the same place is replaced.

    Args:
        place: where it goes: a folder, or the URL of a place in a store.
        network: the finished model, or the members whose probabilities it averages.
        manifest: the fields of `Manifest` that aren't known from the network.
        beside: tensors by name that are none of the network's, as `abstention.saved` has them.

    Returns:
        The folder as an artifact, with the checksum of its weights.
    """
    if artifacts.is_remote(str(place)):
        with scratch("bundle") as made:
            written = write(Path(made) / "bundle", network=network, manifest=manifest, beside=beside)
            stored.publish(Path(written.uri), str(place), weights=WEIGHTS, manifest=MANIFEST)
        return replace(written, uri=str(place))
    folder = Path(place)
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.draft")
    draft.mkdir(parents=True)
    members = [network] if isinstance(network, Backbone) else list(network)
    states = [member.state_dict() for member in members]
    info = members[0].info
    try:
        # Tensors that share memory can't be written as they are; equal copies can.
        state = {
            name: tensor.detach().cpu().contiguous().clone()
            for name, tensor in (states[0] if len(states) == 1 else joined(states)).items()
        }
        described = {
            "format": FORMAT,
            "backbone": info.name,
            "inputs": dict(info.inputs.to_json()),
            "architecture": dict(info.architecture),
            "members": len(members),
            **manifest,
        }
        state |= beside or {}
        vouching = {DESCRIPTION: digest_of(described)}
        weights = write_durably(draft / WEIGHTS, lambda path: save_file(state, path, vouching))
        document = {**described, "sha256": weights.sha256, "bytes": weights.bytes}
        text = json.dumps(document, indent=2, sort_keys=True)
        write_durably(draft / MANIFEST, lambda path: path.write_text(text))
        old = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.old")
        if folder.exists():
            folder.rename(old)
        draft.rename(folder)
        flush_folder(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Artifact(uri=str(folder), sha256=weights.sha256, bytes=weights.bytes)


def load(place: str | Path, *, device: str = "cpu") -> Model:
    """Load a bundle after checking that it is what was written.

    Its two files are all that is read, and no hub is asked: a description may be anybody's.

    Raises:
        BundleError: something is missing, changed, or not a bundle.
        UnknownNameError: a plugin that it needs isn't installed.
    """
    folder = _here(place)
    manifest = check(folder)
    weights = folder / WEIGHTS
    try:
        state = load_file(weights)
    except Exception as error:  # noqa: BLE001 - of the format, the files, types that torch lacks
        raise BundleError(f"Can't read {weights}: {error}") from None
    features = state.pop(abstention.TENSOR, None)
    network = _network(manifest, state, folder)
    try:
        familiar = abstention.familiar(manifest, features)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{folder / MANIFEST}: its verdicts can't be rebuilt: {error}") from None
    try:
        inputs = type(network.info.inputs)(**manifest.inputs)
        if (inputs.shape, inputs.dtype) != (network.info.inputs.shape, network.info.inputs.dtype):
            raise ValueError(f"it makes {inputs.shape}, and the network takes {network.info.inputs.shape}")
        inputs.to_model(inputs.example(1))
    except Exception as error:  # noqa: BLE001 - inputs refuse arguments in many ways
        raise BundleError(f"{folder / MANIFEST}: its preprocessing can't be rebuilt: {error}") from None
    network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(network, inputs, manifest, folder, familiar)


def check(place: str | Path) -> Manifest:
    """What a bundle says of itself, once both of its files are known to be those that were written.

    Raises:
        BundleError: something is missing, changed, or not a bundle.
    """
    folder = _here(place)
    manifest = read_manifest(folder)
    weights = folder / WEIGHTS
    changed = "The copy is damaged or was changed; fetch the bundle again."
    if not weights.is_file():
        raise BundleError(f"{folder} holds no {WEIGHTS}.", hint="Copy the whole folder of the bundle.")
    if sha256_of(weights) != manifest.sha256 or weights.stat().st_size != manifest.bytes:
        raise BundleError(
            f"{weights} isn't what was written: its SHA-256 differs from the one in {MANIFEST}.", hint=changed
        )
    try:
        with safe_open(weights, framework="pt") as file:
            vouched = (file.metadata() or {}).get(DESCRIPTION)
    except Exception as error:  # noqa: BLE001 - whatever isn't safetensors
        raise BundleError(f"Can't read {weights}: {error}") from None
    if vouched != manifest.digest:
        raise BundleError(
            f"{folder / MANIFEST} isn't what was written: its SHA-256 differs from the one in {WEIGHTS}.",
            hint=changed,
        )
    return manifest


def _here(place: str | Path) -> Path:
    """The bundle's folder on this machine; one of a store is fetched first."""
    if artifacts.is_remote(str(place)):
        return stored.fetched(str(place), weights=WEIGHTS, manifest=MANIFEST)
    folder = Path(place).expanduser()
    return folder.parent if folder.name in (MANIFEST, WEIGHTS) and folder.is_file() else folder


def _of(told: Sequence[str], count: int) -> str:
    more = f"; and {len(told) - 5} more" if len(told) > 5 else ""
    return f"{len(told)} of {count} items can't be read: {'; '.join(told[:5])}{more}"


def _network(manifest: Manifest, state: Mapping[str, Tensor], folder: Path) -> Network:
    try:
        members = []
        states = separated(state, manifest.members) if manifest.members > 1 else [state]
        for own, (strategy, params) in zip(states, _made_by(manifest), strict=True):
            pretrained = registry.structure(
                manifest.backbone, image_size=manifest.image_size, architecture=manifest.architecture
            )
            members.append(
                restored(
                    pretrained,
                    strategy=strategy,
                    params=params,
                    task=registry.task(manifest.task),
                    spec=manifest.target_spec,
                    state=own,
                    complete=True,
                )
            )
        if len(members) == 1 and not manifest.flips:
            return members[0]
        parts = [Part(recipe.members, recipe.scale) for recipe in manifest.recipes]
        return Ensemble(members, parts=parts, flips=manifest.flips)
    except UnknownNameError as error:
        family = manifest.backbone.partition("/")[0]
        strategies = {structure_of(*made)[0] for made in _made_by(manifest)}
        needed = {**dict.fromkeys(strategies, registry.STRATEGIES), family: registry.BACKBONES}
        missing = [name for name, group in needed.items() if name not in registry.installed(group)]
        packages = packages_of(manifest.provenance, missing or needed)
        hint = f"{folder} was made with {', '.join(packages)}: install it." if packages else error.hint
        raise UnknownNameError(error.message, hint=hint) from None
    except TlsearchError:
        raise
    except Exception as error:  # plugins say in many ways that they can't take what a damaged file says
        raise BundleError(
            f"The model of {folder} can't be rebuilt: {type(error).__name__}: {error}",
            hint=f"{MANIFEST} may be damaged, or a plugin may have changed since.",
        ) from error


def _made_by(manifest: Manifest) -> list[tuple[str, Params]]:
    """Strategy and hyperparameters of each member."""
    if not manifest.recipes:
        return [(manifest.strategy, manifest.params)] * manifest.members
    return [(one.strategy, one.params) for one in manifest.recipes for _ in range(one.members)]


def _batches(items: Sequence[object], size: int) -> Iterator[tuple[int, list[object]]]:
    for start in range(0, len(items), size):
        yield start, [items[index] for index in range(start, min(start + size, len(items)))]
