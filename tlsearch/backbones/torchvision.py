"""The classification models of torchvision, AlexNet among them.

See https://docs.pytorch.org/vision/stable/models.html.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

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
from tlsearch.errors import UnknownNameError, WeightsError, did_you_mean

# Auxiliary classifiers only serve training from scratch; the published weights expect their own scaling.
_INCEPTION = {"aux_logits": False, "transform_input": True, "init_weights": False}
_OPTIONS: dict[str, dict[str, Any]] = {"googlenet": _INCEPTION, "inception_v3": _INCEPTION}
_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")

# The published DenseNets still have the names of their first version ("norm.1"), which no module may have.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)$")


class TorchvisionBackbones(BackboneFamily):
    """torchvision's image classifiers, the last linear layer taken off: ``classifier.6`` of AlexNet."""

    family: ClassVar[str] = "torchvision"

    def names(self) -> Sequence[str]:
        """The classification models; no quantized, detection, segmentation or video ones."""
        names: list[str] = models.list_models(module=models)
        return names

    def load(self, variant: str, *, weights: str, image_size: int | None) -> Pretrained:
        """Build one; ``"pretrained"`` means the best weights that torchvision publishes for it.

        ``image_size`` None is the size those weights are evaluated at. Pictures aren't cropped (crop 1.0),
        for the same reason as timm's.

        Raises:
            UnknownNameError: torchvision has no such classifier.
            WeightsError: the weights can't be had or don't fit.
            InputError: the model can't take that image size.
        """
        name = f"{self.family}/{variant}"
        if variant not in self.names():
            guess = did_you_mean(variant, self.names(), prefix=f"{self.family}/")
            raise UnknownNameError(
                f'Unknown backbone "{name}". {guess}'.rstrip(),
                hint="`tlsearch backbones` lists what is installed.",
            )
        published = models.get_model_weights(variant).DEFAULT
        preset = published.transforms()
        own_size = int(preset.crop_size[0])
        size = image_size or own_size
        try:
            model = _build(variant, size)
        except Exception as error:  # models say in many ways that they can't take a size
            raise cannot_take(name, size, own_size, error) from error
        head_name = find_head(model)
        head: nn.Module | None = None
        if weights != "random":
            state = _download(name, published) if weights == "pretrained" else read_state(weights)
            if _fill(name, model, state, head_name, source=weights):
                head = model.get_submodule(head_name)
        return split(
            name,
            model,
            inputs=ImageInput(
                size=size,
                mean=tuple(preset.mean),
                std=tuple(preset.std),
                interpolation=preset.interpolation.value,
            ),
            weights=weights,
            own_size=own_size,
            head_name=head_name,
            head=head,
            behead=lambda whole: _behead(whole, head_name),
            groups=by_blocks,
        )


def find_head(model: nn.Module) -> str:
    """Name of the layer that puts out the logits: the last linear one under ``fc``, ``classifier``, ...

    In SqueezeNet it is a convolution.

    Raises:
        ValueError: the model has no such layer.
    """
    for top in ("fc", "classifier", "heads", "head"):
        if isinstance(getattr(model, top, None), nn.Module):
            layers = [
                name for name, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
            ]
            inside = [name for name in layers if name == top or name.startswith(f"{top}.")]
            if inside:
                return inside[-1]
    raise ValueError(f"{type(model).__name__} has no classifier")


def _build(variant: str, size: int) -> nn.Module:
    options = dict(_OPTIONS.get(variant, {}))
    if variant.startswith("vit_"):
        options["image_size"] = size
    if variant.startswith("maxvit"):
        options["input_size"] = (size, size)
    with default_init():
        model: nn.Module = models.get_model(variant, weights=None, **options)
    return model


def _behead(model: nn.Module, head_name: str) -> None:
    """Take off the classifier, and the dropout right before it: a strategy's head brings its own."""
    model.set_submodule(head_name, nn.Identity())
    parent, _, last = head_name.rpartition(".")
    siblings = list(model.get_submodule(parent).named_children())
    place = [name for name, _ in siblings].index(last)
    if place and isinstance(siblings[place - 1][1], nn.Dropout):
        model.set_submodule(f"{parent}.{siblings[place - 1][0]}".lstrip("."), nn.Identity())


def _download(name: str, published: Any) -> OrderedDict[str, Tensor]:
    try:
        with network_patience():
            state: OrderedDict[str, Tensor] = published.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # of the network, the file system, a wrong hash, a broken file
        raise WeightsError(
            f"The weights of {name} can't be loaded from {published.url}: {first_line(error)}",
            hint=OFFLINE_HINT,
        ) from error
    return state


def _fill(
    name: str, model: nn.Module, state: OrderedDict[str, Tensor], head_name: str, *, source: str
) -> bool:
    """Load a state dict; whether its classifier was loaded too (it may be of another size, or missing)."""
    own = model.state_dict()
    for key in list(state):
        if key.startswith(_AUXILIARY):
            del state[key]
        elif match := _OLD_DENSENET.match(key):
            state["".join(match.groups())] = state.pop(key)
    head = {key: own[key] for key in own if key.startswith(f"{head_name}.")}
    whole = all(key in state and state[key].shape == tensor.shape for key, tensor in head.items())
    if not whole:
        state.update(head)
    if not hasattr(state, "_metadata"):
        state._metadata = own._metadata  # type: ignore[attr-defined]  # safetensors has no module versions
    try:
        if isinstance(model, VisionTransformer):
            state = interpolate_embeddings(model.image_size, model.patch_size, state)
        model.load_state_dict(state)
    except (RuntimeError, ValueError, LookupError) as error:
        raise WeightsError(
            f'The weights "{source}" aren\'t those of {name}: {misfit(own, state) or first_line(error)}.',
            hint="Names and shapes must be torchvision's own; a classifier of another size is no matter.",
        ) from error
    return whole
