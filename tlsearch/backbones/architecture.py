"""A timm model without its weights: the name of its architecture and the settings that it is built with.

What is on a hub or in a folder says of itself how it is built. A search reads that there; a saved model
carries it, so that loading it asks no hub and opens nothing that somebody's description names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import timm
from timm.models import PretrainedCfg
from timm.models._hub import load_model_config_from_hf, load_model_config_from_path
from torch import nn

from tlsearch.errors import BundleError, InputError

HUB, FOLDER = "hf-hub:", "local-dir:"
SOURCES = (FOLDER, HUB)

_WORD = re.compile(r"[A-Za-z0-9_.]{1,100}")
_ARGUMENT = re.compile(r"[a-z][a-z0-9_]{0,60}")
# What timm's factories would read, fetch or write by, and what changes the kind of model.
_NOT_ARGUMENTS = re.compile(
    r"pretrained.*|checkpoint.*|cache_dir|features_only|out_indices|feature_cfg|model_cfg|scriptable|exportable"
    r"|no_jit|kwargs_filter|device|dtype|file|url|hf_hub.*|state_dict"
)
_LARGEST = 100_000
_CONFIG = (
    *("input_size", "test_input_size", "min_input_size", "fixed_input_size", "interpolation", "mean", "std"),
    *("num_classes", "pool_size", "test_pool_size", "first_conv", "classifier"),
)
"""Fields of timm's configuration that say how a model is built or what it takes; none of them is a place."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What timm builds a model from.

    ``config`` and ``arguments`` are empty where timm knows all by the name alone; ``place`` is where a search
    found them, and is never a part of a saved model.
    """

    model: str
    config: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""

    @classmethod
    def at(cls, place: str) -> Architecture:
        """What the ``config.json`` of ``local-dir:PATH`` or ``hf-hub:OWNER/NAME`` says.

        Raises:
            InputError: a saved model couldn't be rebuilt from it.
            Exception: whatever the hub's client, its transport, the file system and timm raise.
        """
        if place.startswith(HUB):
            config, model, arguments = load_model_config_from_hf(place.removeprefix(HUB))
        else:
            config, model, arguments = load_model_config_from_path(place.removeprefix(FOLDER))
        kept = {key: config[key] for key in _CONFIG if config.get(key) is not None}
        try:
            return cls(_known(model), _settings(kept), _arguments(arguments), place)
        except ValueError as error:
            raise InputError(f"A model of {place} couldn't be saved: its config.json says {error}.") from None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Architecture:
        """What a saved model says of itself, which may be anything.

        Raises:
            BundleError: it says more than what a model is built from.
        """
        try:
            if odd := set(document) - {"model", "config", "arguments"}:
                raise ValueError(f"also {', '.join(sorted(map(repr, odd)))}")
            config, arguments = document.get("config", {}), document.get("arguments", {})
            if not isinstance(config, dict) or not isinstance(arguments, dict):
                raise ValueError("that config and arguments are no mappings")
            if odd := set(config) - set(_CONFIG):
                raise ValueError(f"config.{min(odd)!r}")
            return cls(_known(document.get("model")), _settings(config), _arguments(arguments))
        except ValueError as error:
            raise BundleError(
                f"The model can't be rebuilt: its description's architecture says {error}."
            ) from None

    def to_json(self) -> dict[str, Any]:
        """What `from_json` takes; empty where the name is enough."""
        if not self.config and not self.arguments:
            return {}
        return {"model": self.model, "config": dict(self.config), "arguments": dict(self.arguments)}

    def full_config(self) -> dict[str, Any]:
        """timm's configuration of it: input size, mean, where its weights are."""
        if self.config:
            known = PretrainedCfg(**self.config).to_dict()
            where = "hf_hub_id" if self.place.startswith(HUB) else "file"
            return {**known, where: self.place.partition(":")[2]} if self.place else known
        config: dict[str, Any] = (timm.get_pretrained_cfg(self.model) or PretrainedCfg()).to_dict()
        return config

    def build(self, **options: Any) -> nn.Module:
        """The model, its weights drawn at random; opens no file and asks nobody."""
        config = {"pretrained_cfg": PretrainedCfg(**self.config)} if self.config else {}
        return timm.create_model(self.model, pretrained=False, **config, **{**self.arguments, **options})


def _known(model: object) -> str:
    """A name of timm's own list: nothing that has a source before it, and no path."""
    name = model if isinstance(model, str) and _WORD.fullmatch(model) else ""
    if not name or not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"the model is {str(model)[:100]!r}, which timm doesn't know")
    return name


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _plain(key, value) for key, value in config.items()}


def _arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    for key in arguments:
        if not isinstance(key, str) or not _ARGUMENT.fullmatch(key) or _NOT_ARGUMENTS.fullmatch(key):
            raise ValueError(f"the argument {str(key)[:100]!r}, which doesn't belong to a model's structure")
    return {key: _plain(key, value) for key, value in arguments.items()}


def _plain(key: str, value: object) -> Any:
    """A number, a word, nothing, or a few of these."""
    if isinstance(value, list | tuple) and len(value) <= 64:
        return tuple(_plain(key, one) for one in value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) <= _LARGEST:
        return value
    if isinstance(value, str) and _WORD.fullmatch(value):
        return value
    raise ValueError(f"{key} is {str(value)[:100]!r}, no number or word")
