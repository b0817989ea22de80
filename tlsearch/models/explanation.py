"""Where a classifier looked: which places of an image spoke for the class that it told.

HiResCAM (Draelos and Carin 2020, arXiv:2011.08891), by Captum: at a layer whose outputs are places, the
features of each place times the gradient of the class's logit at them, summed over the channels. Where the
layer's mean goes through one linear layer it is Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391), and the
places add up to the logit but for the bias. Of a vision transformer the places are its patches.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageOps
from torch import Tensor, nn

from tlsearch.contracts.images import ImageInput
from tlsearch.contracts.layers import Level, places
from tlsearch.errors import InputError
from tlsearch.models.ensemble import Ensemble, averaged
from tlsearch.models.model import Model

LEAST = 4
"""Places of a side that a layer should have, where there is one that has; fewer say little of where."""
SHOWN = 320
"""Pixels of a side of the picture that is drawn, where the image has as many: the network may see fewer."""
STRONGEST = 0.65
"""How much of a picture the colour of its strongest place covers."""
COLOURS = ("#30123b", "#e4460a", "#f9fb0e")
"""From nothing to the strongest place."""


def check(model: Model) -> ImageInput:
    """Refuse a model that can't be explained, before anything is predicted; returns what it takes.

    Raises:
        InputError: it takes no pictures, tells no classes, or captum isn't installed.
    """
    if not isinstance(model.inputs, ImageInput) or not model.task.probabilities:
        raise InputError(
            f"Only classifiers of images are explained, and this is {model.manifest.task} of "
            f"{model.inputs.modality} items."
        )
    if not installed():
        raise InputError(
            "Explaining needs a package that isn't installed: captum.", hint="pip install 'tlsearch[explain]'"
        )
    return model.inputs


def installed() -> bool:
    """Whether captum is."""
    return importlib.util.find_spec("captum") is not None


def explainer(model: Model) -> Explainer | None:
    """What explains a model's answers; None where they can't be explained here."""
    with contextlib.suppress(InputError):
        made = Explainer(model)
        noise = model.inputs.example(1)[0].permute(1, 2, 0).numpy()
        made.heat(np.ascontiguousarray(noise), 0)
        return made
    return None


class Explainer:
    """Explains a model's answers; which layer it looks at is found with the first image.

    Raises:
        InputError: as `check` does; or no layer's outputs are places, or the head has no gradient at them.
    """

    def __init__(self, model: Model) -> None:
        self.inputs = check(model)
        self.model = model
        network = model.network
        first: Any = network.members[0] if isinstance(network, Ensemble) else network
        self._trunk: nn.Module = first.get_submodule("trunk")
        self._network = network if isinstance(network, Ensemble) else Ensemble([network])
        self._level: Level | None = None

    def heat(self, item: object, target: int) -> NDArray[np.float32]:
        """How much each place (side, side) speaks for a class, from 0 to 1; all 0 where none does.

        Args:
            item: that can be read.
            target: number of the class.
        """
        encoded = torch.from_numpy(self.model.encode(item)[None])
        inputs = self.model.inputs.to_model(encoded.to(next(self._network.parameters()).device))
        for level in [self._level] if self._level is not None else self._levels(inputs):
            found = self._attributed(level, inputs, target)
            if bool((found != 0).any()):  # a class token doesn't read patches behind the last attention
                self._level = level
                heat = found.clamp_min(0)
                return (heat / heat.max().clamp_min(1e-12)).cpu().numpy().astype(np.float32)
        if self._level is not None:
            return np.zeros((self._level.side, self._level.side), np.float32)
        raise InputError(
            f"{self.model.manifest.strategy} on {self.model.manifest.backbone} can't be explained: none of "
            "its spatial layers has a gradient.",
            hint="`tlsearch trials STUDY` lists other trials, and `tlsearch export --trial N` writes one.",
        )

    def _levels(self, inputs: Tensor) -> Iterator[Level]:
        """Layers of places from the last one on; those of few places after the others."""
        found = places(self._trunk, inputs, self._logits)[::-1]
        found = [
            one for one in found if one.layout != "tokens" or one.channels == self.model.network.info.width
        ]
        yield from (one for one in found if one.side >= LEAST)
        yield from (one for one in found if one.side < LEAST)

    def _attributed(self, level: Level, inputs: Tensor, target: int) -> Tensor:
        """What each place (side, side) adds to the logit."""
        from captum.attr import LayerGradientXActivation

        method: Any = LayerGradientXActivation(self._logits, self._trunk.get_submodule(level.name))
        try:
            with torch.enable_grad():
                found = method.attribute(inputs.clone(), target=target)
        except RuntimeError as error:
            if "grad" not in str(error):
                raise
            return torch.zeros(level.side, level.side)  # a vote among neighbours has no gradient
        return level.of(found)[0].sum(dim=0).detach()

    def _logits(self, inputs: Tensor) -> Tensor:
        network = self._network
        return averaged(network.looks(inputs, mirrored=False), self.model.task, network.parts)


def drawn(explainer: Explainer, item: object, target: int) -> Image.Image:
    """What the network sees of an image, and beside it the same with the places that spoke for the class."""
    picture = _seen(explainer.inputs, item)
    return beside(picture, laid_over(picture, explainer.heat(item, target)))


def _seen(inputs: ImageInput, item: object) -> Image.Image:
    """The part of an image that the network sees, in the image's own detail and proportions."""
    whole = inputs.picture(item)
    finer = replace(inputs, size=max(inputs.size, min(SHOWN, *whole.size)))
    picture = finer.shown(finer.encode(item))
    if inputs.resize != "squash":
        return picture
    width, height = (max(1, round(finer.size * side / max(whole.size))) for side in whole.size)
    return picture.resize((width, height))


def laid_over(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """A picture with heat from 0 to 1 as colour."""
    grey = Image.fromarray((255 * heat).astype(np.uint8)).resize(picture.size, Image.Resampling.BICUBIC)
    colours = ImageOps.colorize(grey, COLOURS[0], COLOURS[2], COLOURS[1])
    strength = ImageChops.multiply(grey, Image.new("L", grey.size, int(255 * STRONGEST)))
    return Image.composite(colours, picture, strength)


def beside(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures as one."""
    both = Image.new("RGB", (left.width + right.width + 4, max(left.height, right.height)), "white")
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 4, 0))
    return both
