"""Three efforts that a search can be made with, as plain keys of a study file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from tlsearch.errors import UnknownNameError, did_you_mean
from tlsearch.spec.sections import StudySpec

ALL = "# strategies: [linear_probe, fine_tune]   # left out: all that apply"
WHY = {"budget": "# whichever comes first; the same command again goes on"}
"""Comments beside keys."""
LEAST_EPOCHS = 40
"""Epochs that there is to be time for: a trial, and a refit of two networks."""
QUICK_EPOCH = 4.0
"""Seconds of an epoch in the shortest searches: a trial and its refit fit in, which is worth more than larger
images (200 pictures of clothes, two minutes: 80.0 % right at 96 pixels; at 128, without a refit, 77.6)."""


@dataclass(frozen=True, slots=True)
class Preset:
    """An effort.

    Attributes:
        name: what people choose it by.
        aim: what it is for, in a few words.
        epoch_seconds: what an epoch of fine-tuning should take at most; smaller images make it so.
        keys: sections of a study file with their values, as plain data.
    """

    name: str
    aim: str
    epoch_seconds: float
    keys: Mapping[str, Any]

    def within(self, minutes: float | None) -> Preset:
        """The same for so many minutes, where epochs are to be shorter; itself where they are its own."""
        if minutes is None:
            return self
        seconds = max(QUICK_EPOCH, 60 * minutes / LEAST_EPOCHS)
        return replace(self, epoch_seconds=min(self.epoch_seconds, seconds))

    def lines(self) -> list[str]:
        """The keys as lines of a study file."""
        whole = {"strategies": ALL, **self.keys}
        texts = [f"{key}: {_flow(value)}" if value is not ALL else ALL for key, value in whole.items()]
        return [
            f"# Preset {self.name}: {self.aim}.",
            *(f"{text}   {WHY[key]}" if key in WHY else text for key, text in zip(whole, texts, strict=True)),
        ]

    def differences(self, study: StudySpec) -> list[str]:
        """Keys in which a study has other values than this preset, each as ``budget.minutes: 2``."""
        plain = study.to_json()
        found = []
        for key, value in self.keys.items():
            inner = value if isinstance(value, Mapping) else {"": value}
            here = plain.get(key) if isinstance(value, Mapping) else {"": plain.get(key)}
            found += [
                f"{key}{'.' if name else ''}{name}: {json.dumps((here or {}).get(name))}"
                for name, wanted in inner.items()
                if (here or {}).get(name) != wanted
            ]
        return found


def _flow(value: Any) -> str:
    """Plain data as YAML in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                "quick",
                "a first verified model within two minutes",
                epoch_seconds=QUICK_EPOCH,
                keys={
                    "strategies": ["linear_probe", "fine_tune"],
                    "budget": {"trials": 12, "minutes": 2},
                    # Two, of which one is fine-tuned: the best of a few heads may lead by luck.
                    "search": {"finalists": 2, "confirm_seeds": 0, "members": 2},
                },
            ),
            Preset(
                "good",
                "all strategies that apply, three networks averaged; half an hour at most",
                epoch_seconds=30.0,
                keys={"budget": {"trials": 60, "minutes": 30}},
            ),
            Preset(
                "best",
                "a long search, more finalists and seeds, five networks averaged; four hours at most",
                epoch_seconds=120.0,
                keys={
                    "budget": {"trials": 300, "minutes": 240},
                    "search": {"finalists": 5, "confirm_seeds": 3, "refit": True, "members": 5},
                },
            ),
        )
    }
)
DEFAULT = "good"


def preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        UnknownNameError: there is none of that name.
    """
    if name not in PRESETS:
        raise UnknownNameError(
            f'There is no preset "{name}". {did_you_mean(name, PRESETS)}'.strip(),
            hint="; ".join(f"{one.name}: {one.aim}" for one in PRESETS.values()) + ".",
        )
    return PRESETS[name]
