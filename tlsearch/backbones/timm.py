"""Every model of timm, with weights from its hub, a file, or at random; and a base for families of them.

See https://huggingface.co/docs/timm for the models, their tags and their weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import timm
from huggingface_hub import HfApi, try_to_load_from_cache
from timm.models import group_parameters
from torch import Tensor, nn

from tlsearch.backbones.architecture import HUB, SOURCES, Architecture
from tlsearch.backbones.checkpoints import (
    OFFLINE_HINT,
    default_init,
    first_line,
    misfit,
    network_patience,
    read_state,
)
from tlsearch.backbones.groups import by_blocks
from tlsearch.backbones.trunks import cannot_take, split
from tlsearch.contracts.backbone import BackboneFamily, Pretrained
from tlsearch.contracts.images import ImageInput
from tlsearch.errors import BundleError, InputError, UnknownNameError, WeightsError, did_you_mean

_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_HUB_SECONDS = 10.0
# What timm's conversions raise on weights of something else.
_UNFIT = (RuntimeError, LookupError, ValueError, TypeError, AttributeError, AssertionError)


class TimmBackbones(BackboneFamily):
    """All models of timm, by name (``resnet18``) or name and weights' tag (``resnet18.a1_in1k``).

    ``local-dir:PATH`` and ``hf-hub:OWNER/NAME`` are accepted as well.

    Also the base for a family of timm models that brings weights of its own: override `family`, `names`,
    `architecture` and `published` (the package tlsearch-efficientnet-lite is an example).
    """

    family: ClassVar[str] = "timm"
    """Name of the family's entry point."""

    def names(self) -> Sequence[str]:
        """Models, then models with the tag of one set of weights."""
        names = [*timm.list_models(), *timm.list_pretrained()]
        # Encoders of language models, which put out a sequence and have no place for a head.
        return [name for name in names if not name.partition(".")[0].endswith("_enc")]

    def architecture(self, variant: str) -> str:
        """timm's name for a variant."""
        return variant

    def published(self, variant: str) -> Mapping[str, Tensor] | None:
        """The pretrained weights under timm's names, or None to get them from timm's hub.

        Raises:
            WeightsError: they can't be had.
        """
        return None

    def load(self, variant: str, *, weights: str, image_size: int | None) -> Pretrained:
        """Build one; ``image_size`` None is the size that it was trained at.

        Pictures aren't cropped (crop 1.0), unlike in timm's own evaluation: what matters in the data that
        people transfer to often reaches the border, and a loss there can't be made good later.

        Raises:
            UnknownNameError: timm has no such model or tag.
            WeightsError: the weights can't be had or don't fit.
            InputError: the model can't take that image size, or RGB images at all.
        """
        name = f"{self.family}/{variant}"
        if not self._knows(variant):
            guess = did_you_mean(variant, self.names(), prefix=f"{self.family}/")
            raise UnknownNameError(
                f'Unknown backbone "{name}". {guess}'.rstrip(),
                hint="`tlsearch backbones` lists what is installed.",
            )
        plan = _Plan(name, _architecture(name, self.architecture(variant)), image_size)
        if weights == "random":
            model = plan.build()
        elif weights != "pretrained":
            model = plan.build_from(read_state(weights), source=weights)
        elif (state := self.published(variant)) is not None:
            model = plan.build_from(state, source=f"what {name} brings")
        else:
            model = plan.build_from_hub()
        return _split(plan, model, weights)

    def structure(
        self, variant: str, *, image_size: int | None, architecture: Mapping[str, Any]
    ) -> Pretrained:
        """Build one for the weights of a saved model, from timm's own list of architectures alone.

        Raises:
            UnknownNameError: timm has no such model.
            BundleError: ``architecture`` names anything but a structure, or isn't there for a model that timm
                doesn't know.
            InputError: the model can't take that image size.
        """
        if not variant.startswith(SOURCES):
            return self.load(variant, weights="random", image_size=image_size)
        name = f"{self.family}/{variant}"
        if not self._knows(variant):
            raise UnknownNameError(f'Unknown backbone "{name}".')
        if not architecture:
            raise BundleError(
                f"This model was made of {name} by an earlier tlsearch, and doesn't say how that is built.",
                hint="No hub or folder is asked for it: run its study again, or ask whoever made it to.",
            )
        plan = _Plan(name, Architecture.from_json(architecture), image_size)
        return _split(plan, plan.build(), "random")

    def _knows(self, variant: str) -> bool:
        if variant in self.names():
            return True
        # timm also accepts names that it used to have and doesn't list; none of them has a tag.
        former = timm.is_model(variant) and "." not in variant
        return type(self).names is TimmBackbones.names and (former or variant.startswith(SOURCES))


class _Plan:
    """What is to be built: a model's name and configuration, and the image size."""

    def __init__(self, name: str, architecture: Architecture, image_size: int | None) -> None:
        self.name = name
        self.architecture = architecture
        self.config = architecture.full_config()
        channels, height, width = self.config["input_size"]
        if channels != 3:
            raise InputError(f"{name} takes images of {channels} channels, not RGB.")
        self.own_size = int(max(height, width))
        self.size = image_size or self.own_size
        # Models whose weights depend on the image size (ViT, Swin) must be told; others refuse the option.
        fixed = self.config.get("fixed_input_size", False) and image_size is not None
        self.options = {"img_size": image_size} if fixed else {}

    def build(self) -> nn.Module:
        """The model with random weights."""
        try:
            with default_init():
                return self.architecture.build(**self.options)
        except Exception as error:  # models say in many ways that they can't take a size
            raise cannot_take(self.name, self.size, self.own_size, error) from error

    def build_from(self, state: Mapping[str, Tensor], *, source: str) -> nn.Module:
        """The model with a state dict's weights; its classifier may be of any size, or missing."""
        classifiers = [f"{head}.weight" for head in _heads(self.config)]
        sizes = [len(state[key]) for key in classifiers if key in state]
        # No classifier under its name: it's one in a foreign layout, which timm renames, or there is none.
        for classes in sizes[:1] or (self.config["num_classes"], 0):
            # timm converts foreign layouts and resamples position embeddings; told that the class counts
            # agree, it is strict about every key.
            overlay = {"state_dict": dict(state), "num_classes": classes, "label_offset": 0}
            try:
                with default_init():
                    model = timm.create_model(
                        self.architecture.place or self.architecture.model,
                        pretrained=True,
                        num_classes=classes,
                        pretrained_cfg_overlay={**overlay, "custom_load": False},
                        **self.options,
                    )
            except _UNFIT as error:
                reason: Exception = error
                continue
            del model.pretrained_cfg["state_dict"]
            return model
        wrong = misfit(self.build().state_dict(), state) or first_line(reason)
        raise WeightsError(
            f"The weights in {source} aren't those of {self.name}: {wrong}.",
            hint="Names and shapes must be timm's own; a classifier of another size is no matter.",
        ) from reason

    def build_from_hub(self) -> nn.Module:
        """The model with the weights that timm publishes for it."""
        config = self.config
        if not any(config.get(key) for key in ("url", "hf_hub_id", "file")):
            raise WeightsError(
                f"timm publishes no weights for {self.name}.",
                hint="Choose a name with a tag (`tlsearch backbones`), a file, or `weights: random`.",
            )
        try:
            _ask_hub(config)
            with network_patience(), default_init():
                place = self.architecture.place or self.architecture.model
                return timm.create_model(place, pretrained=True, **self.options)
        except Exception as error:  # of the hub's client, its transport, the file system, torch, timm
            self.build()  # raises if it's the image size that is wrong
            where = config.get("hf_hub_id") or config.get("url") or config.get("file")
            raise WeightsError(
                f"The weights of {self.name} can't be loaded from {where}: {first_line(error)}",
                hint=OFFLINE_HINT,
            ) from error


def _architecture(name: str, given: str) -> Architecture:
    """A name of timm's, or what a hub or folder says of the model there."""
    if not given.startswith(SOURCES):
        return Architecture(given)
    try:
        _ask_hub({"hf_hub_id": given.removeprefix(HUB)} if given.startswith(HUB) else {})
        return Architecture.at(given)
    except InputError:
        raise
    except Exception as error:  # of the hub's client, its transport, the file system, timm
        raise WeightsError(
            f"The model of {name} can't be loaded: {first_line(error)}",
            hint="local-dir: takes a folder with config.json and model.safetensors. " + OFFLINE_HINT,
        ) from error


def _ask_hub(config: Mapping[str, Any]) -> None:
    """Find out in seconds whether the hub answers, unless the weights are cached.

    Without a connection the hub's client tries for 46 seconds (measured), whatever its time limits.
    """
    repository = config.get("hf_hub_id")
    if not repository or config.get("source") == "local-dir":
        return
    identifier, _, revision = repository.partition("@")
    files = [config["hf_hub_filename"]] if config.get("hf_hub_filename") else _HUB_FILES
    if not any(
        isinstance(try_to_load_from_cache(identifier, file, revision=revision or None), str) for file in files
    ):
        HfApi().model_info(identifier, revision=revision or None, timeout=_HUB_SECONDS)


def _heads(config: Mapping[str, Any]) -> tuple[str, ...]:
    heads = config.get("classifier") or ()
    return (heads,) if isinstance(heads, str) else tuple(heads)


def _split(plan: _Plan, model: Any, weights: str) -> Pretrained:
    if not hasattr(model, "get_classifier"):
        raise InputError(f"{plan.name} is no image classifier: it has no features to put a head on.")
    layers: dict[str, int] = {}
    if hasattr(model, "group_matcher"):
        # Taken before the classifier goes: some matchers count from the end.
        layers = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
    classifier = model.get_classifier()
    known = weights != "random" and isinstance(classifier, nn.Module)
    config = model.pretrained_cfg
    interpolation = config.get("interpolation", "bicubic")
    loaded = split(
        plan.name,
        model,
        inputs=ImageInput(
            size=plan.size,
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
            interpolation=interpolation if interpolation in ("bilinear", "nearest") else "bicubic",
        ),
        weights=weights,
        own_size=plan.own_size,
        head_name=", ".join(_heads(config)),
        head=classifier if known and not isinstance(classifier, nn.Identity) else None,
        behead=_behead,
        groups=lambda trunk: _groups(trunk, layers),
    )
    return replace(loaded, info=replace(loaded.info, architecture=plan.architecture.to_json()))


def _behead(model: Any) -> None:
    model.reset_classifier(0)


def _groups(trunk: nn.Module, layers: Mapping[str, int]) -> list[list[str]]:
    """timm's own groups; blocks where it has none, since its fallback cuts blocks in two."""
    if not layers:
        return by_blocks(trunk)
    groups: dict[int, list[str]] = {}
    for parameter, _ in trunk.named_parameters():
        groups.setdefault(layers[parameter], []).append(parameter)
    return [groups[layer] for layer in sorted(groups)]
