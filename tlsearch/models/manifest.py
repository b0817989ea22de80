"""What ``bundle.json`` says of a model, and how it is read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from tlsearch.contracts.target import TargetSpec
from tlsearch.contracts.task import EARLIEST
from tlsearch.contracts.verdict import ABSTENTION
from tlsearch.errors import BundleError
from tlsearch.records import MOST_CHANNELS, RGB, Params, Pixels, Scalar

FORMAT = 4
READ = (2, 3, 4)
"""Formats that can be read."""
WEIGHTS = "model.safetensors"
MANIFEST = "bundle.json"
DESCRIPTION = "tlsearch.description"
"""Where the header of the weights has the checksum of `MANIFEST`."""
MOST_MEMBERS = 1000
LARGEST = 4096
"""Pixels of an image side, as a study file may have it."""

_KINDS: Mapping[str, Any] = {
    "classes": list,
    "backbone": str,
    "image_size": int | None,
    "inputs": dict,
    "strategy": str,
    "params": dict,
    "sha256": str,
    "bytes": int,
    "metrics": dict,
    "provenance": dict,
    "calibration": dict,
    "architecture": dict,
    "members": int,
    "flips": bool,
    "trained_on": list,
    "task": str,
    "facts": dict,
    "recipes": list,
}
"""What JSON may hold in the fields of a `Manifest`."""
_ADDED: Mapping[str, Any] = {
    "calibration": {},
    "architecture": {},
    "members": 1,
    "flips": False,
    "trained_on": ["train"],
    "task": EARLIEST,
    "facts": {},
    "recipes": [],
}
"""Fields that earlier versions didn't write, and what they mean where they are missing."""


@dataclass(frozen=True, slots=True)
class MemberRecipe:
    """What some members of a model were made by, where not all were made alike.

    Attributes:
        strategy: its name.
        params: its hyperparameters.
        members: how many, one after another.
        scale: what their outputs are multiplied by before they are averaged with others.
    """

    strategy: str
    params: Params
    members: int
    scale: float

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """As `to_json` gives it.

        Raises:
            KeyError, TypeError, ValueError: it isn't.
        """
        told = cls(**document)
        if not isinstance(told.strategy, str) or not isinstance(told.params, dict):
            raise TypeError(f"a recipe can't be {document!r}")
        _check_params(told.params)
        if isinstance(told.members, bool) or not isinstance(told.members, int) or told.members < 1:
            raise ValueError(f"members can't be {told.members!r}")
        if not isinstance(told.scale, float) or not 0 < told.scale < math.inf:
            raise ValueError(f"scale can't be {told.scale!r}")
        return told

    def to_json(self) -> dict[str, Any]:
        """As it stands in a bundle's description."""
        return {**asdict(self), "params": dict(self.params)}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``bundle.json`` says.

    ``metrics`` maps ``val`` and ``test`` to metric names and values; ``provenance`` is for people and
    programs that ask where a model came from (study, trial, seed, data fingerprint, versions).
    ``calibration`` is what the ``task`` fitted, as JSON, empty where it fitted nothing; ``facts`` are the
    targets', beside their names. ``architecture`` is the backbone's
    `BackboneInfo.architecture`: what it is built by where its name is not enough. The model averages
    ``members`` networks and, with ``flips``, what each says of the mirrored image; all have learned from the
    splits ``trained_on``. Where they aren't all of ``strategy`` and ``params``, ``recipes`` has what they
    are. ``digest`` is the SHA-256 of the whole description but for what it says of the weights' file.
    """

    format: int
    classes: tuple[str, ...]
    backbone: str
    image_size: int | None
    inputs: Mapping[str, Any]
    strategy: str
    params: Params
    sha256: str
    bytes: int
    metrics: Mapping[str, Mapping[str, float]]
    provenance: Mapping[str, Any]
    calibration: Mapping[str, Any]
    digest: str
    architecture: Mapping[str, Any] = field(default_factory=dict)
    members: int = 1
    flips: bool = False
    trained_on: tuple[str, ...] = ("train",)
    task: str = EARLIEST
    facts: Mapping[str, Any] = field(default_factory=dict)
    recipes: tuple[MemberRecipe, ...] = ()

    @property
    def pixels(self) -> Pixels:
        """What the pictures are made of that it takes."""
        return Pixels(self.inputs.get("channels", RGB.channels), self.inputs.get("bits", RGB.bits))

    @property
    def target_spec(self) -> TargetSpec:
        """What the model puts out: names, and the facts that go with them."""
        return TargetSpec(self.classes, self.facts)


def digest_of(document: Mapping[str, Any]) -> str:
    """SHA-256 of a description, whatever its layout, without what it says of the weights' file."""
    plain = json.loads(json.dumps(dict(document)))
    said = {key: value for key, value in plain.items() if key not in ("sha256", "bytes")}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """What a bundle says of itself; the weights are not read.

    Raises:
        BundleError: it isn't a bundle, or one of a newer format.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        version = document["format"]
        if version not in READ:
            raise BundleError(
                f"{path} has format {version}; this tlsearch reads formats {READ[0]} to {READ[-1]}.",
                hint="Install the tlsearch that wrote it, or a newer one.",
            )
        known = {"format": version, "digest": digest_of(document)}
        for name, kind in _KINDS.items():
            known[name] = document.get(name, _ADDED[name]) if name in _ADDED else document[name]
            if not isinstance(known[name], kind) or isinstance(known[name], bool) is not (kind is bool):
                raise TypeError(f"{name} can't be {known[name]!r}")
        known["classes"] = tuple(str(name) for name in known["classes"])
        if not known["classes"]:
            raise ValueError("there are no classes")
        if known["image_size"] is not None and not 1 <= known["image_size"] <= LARGEST:
            raise ValueError(f"image_size can't be {known['image_size']}")
        _check_params(known["params"])
        known["inputs"] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in known["inputs"].items()
        }
        _check_pixels(known["inputs"])
        temperature_of(known["calibration"])
        _check_adjustment(known["calibration"], outputs=len(known["classes"]))
        _check_abstention(known["calibration"])
        if not 1 <= known["members"] <= MOST_MEMBERS:
            raise ValueError(f"there can't be {known['members']} members")
        known["recipes"] = tuple(MemberRecipe.from_json(one) for one in known["recipes"])
        if known["recipes"] and sum(one.members for one in known["recipes"]) != known["members"]:
            raise ValueError(f"recipes aren't those of {known['members']} members")
        known["trained_on"] = tuple(str(name) for name in known["trained_on"])
        return Manifest(**known)
    except FileNotFoundError:
        raise BundleError(
            f"{folder} is not a model bundle: it has no {MANIFEST}.",
            hint="`tlsearch best STUDY` names the bundle of a study.",
        ) from None
    except (KeyError, TypeError, AttributeError, ValueError, OSError, RecursionError) as error:
        raise BundleError(f"{path} is not a bundle's description: {error!r}") from None


def temperature_of(calibration: Mapping[str, Any]) -> float:
    """The temperature in a bundle's description; 1 where there is none.

    Raises:
        ValueError: it isn't a finite number above 0.
    """
    value = calibration.get("temperature", 1.0)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"temperature can't be {value!r}")
    return float(value)


def _check_pixels(inputs: Mapping[str, Any]) -> None:
    """Refuse channels that no picture has, before a network is built for them."""
    for key, allowed in (("channels", range(1, MOST_CHANNELS + 1)), ("bits", (8, 16))):
        if key in inputs and (isinstance(inputs[key], bool) or inputs[key] not in allowed):
            raise ValueError(f"inputs.{key} can't be {inputs[key]!r}")


def _check_params(params: Mapping[str, Any]) -> None:
    if not all(isinstance(value, Scalar) for value in params.values()):
        raise TypeError("params can only be numbers, words and truth values")


def _check_adjustment(calibration: Mapping[str, Any], *, outputs: int) -> None:
    taken = calibration.get("adjustment", [])
    numbers = isinstance(taken, list) and all(isinstance(one, float) and math.isfinite(one) for one in taken)
    if not numbers or len(taken) not in (0, outputs):
        raise ValueError(f"adjustment can't be {taken!r}")


def _check_abstention(calibration: Mapping[str, Any]) -> None:
    """Refuse a description of verdicts that can't be.

    Raises:
        ValueError: naming it.
    """
    known = calibration.get(ABSTENTION, {})
    sets, far = known.get("candidates"), known.get("outsiders")
    if sets is not None and not (_number(sets.get("least")) and 0 <= sets["least"] <= 1):
        raise ValueError(f"abstention can't go by {sets!r}")
    if far is not None and not (
        _number(far.get("ratio"))
        and _number(far.get("scale"))
        and isinstance(far.get("neighbours"), int)
        and far["ratio"] * far["scale"] > 0
    ):
        raise ValueError(f"abstention can't go by {far!r}")


def _number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and math.isfinite(value)
