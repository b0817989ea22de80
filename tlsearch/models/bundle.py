"""A trained model as a folder: ``model.safetensors`` and ``bundle.json``; no pickle, checksums verified.

``bundle.json`` holds everything that is needed to predict as the study did: classes, preprocessing, the
backbone's and strategy's names and versions, and where the model came from. It names the SHA-256 of the
weights' file, whose header names that of the description: who pins the first has pinned both files.
"""

from __future__ import annotations

import copy
import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tlsearch import artifacts, registry
from tlsearch.contracts import Backbone
from tlsearch.contracts.combination import structure_of
from tlsearch.errors import BundleError, TlsearchError, UnknownNameError
from tlsearch.files import flush_folder, scratch, sha256_of, write_durably
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
)
from tlsearch.models.model import Model, Network
from tlsearch.models.rebuild import packages_of, restored
from tlsearch.records import Artifact, Params

__all__ = [
    "FORMAT",
    "MANIFEST",
    "WEIGHTS",
    "Manifest",
    "check",
    "digest_of",
    "load",
    "read_manifest",
    "write",
]


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


def _network(manifest: Manifest, state: Mapping[str, Tensor], folder: Path) -> Network:
    try:
        members = []
        states = separated(state, manifest.members) if manifest.members > 1 else [state]
        structure = registry.structure(
            manifest.backbone,
            image_size=manifest.image_size,
            architecture=manifest.architecture,
            pixels=manifest.pixels,
        )
        for own, (strategy, params) in zip(states, _made_by(manifest), strict=True):
            members.append(
                restored(
                    copy.deepcopy(structure),
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
