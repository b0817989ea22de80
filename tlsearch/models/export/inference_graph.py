"""A model as one graph: pixels to logits and probabilities, with preprocessing and temperature inside."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tlsearch.contracts.images import ImageInput
from tlsearch.errors import ExportError, InputError
from tlsearch.models import abstention
from tlsearch.models.model import Model

VERDICT, DISTANCE = "verdict", "distance"
MOST = 65_536
"""Images in one call of an exported graph."""


@dataclass(frozen=True, slots=True)
class Material:
    """Items of the study that a graph is made smaller with.

    Attributes:
        training: raw items that set ranges.
        splits: raw items and targets as the data has them, by split, to score both graphs on.
        metric: the study's.
    """

    training: Sequence[object]
    splits: Mapping[str, tuple[Sequence[object], Sequence[Any]]]
    metric: str


@dataclass(frozen=True, slots=True)
class Options:
    """How to export.

    Attributes:
        inside: whether scaling and normalizing pixels is a part of the graph (ONNX, torch).
        opset: of ONNX.
        precision: of the ONNX graph's numbers.
        most: by how much the study's metric may be worse for it, on validation items.
        material: items of the study, which another precision takes.
    """

    inside: bool = True
    opset: int = 18
    precision: str = "float32"
    most: float = 0.0
    material: Material | None = None


def parse_preprocess(word: str) -> bool:
    """Whether preprocessing goes inside the graph.

    Raises:
        InputError: it is neither ``inside`` nor ``beside``.
    """
    if word not in ("inside", "beside"):
        raise InputError(f'--preprocess takes inside or beside, not "{word}".')
    return word == "inside"


class Whole(nn.Module):
    """Pixels (B, size, size, C), or normalized float32 (B, C, size, size), to what `outputs_of` lists.

    Pixels are uint8, or uint16 where the model takes 16 bits of a channel.

    Logits and probabilities are (B, classes) and with the model's temperature: their softmax is what it
    predicts. Verdicts (B,) are numbers of `VERDICTS`, distances (B,) multiples of the limit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Model, *, inside: bool) -> None:
        super().__init__()
        inputs = picture_input(model)
        self.network = copy.deepcopy(model.network).cpu().float().eval()
        self.network.to(memory_format=torch.contiguous_format)
        self.decode = partial(
            model.task.decode, spec=model.target_spec, calibration=dict(model.manifest.calibration)
        )
        self.task, self.calibration = model.task, dict(model.manifest.calibration)
        self.familiar = model.familiar
        self.verdicts = abstention.gives_verdicts(model.manifest)
        self.inside = inside
        self.top = inputs.top
        self.register_buffer("mean", torch.tensor(inputs.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(inputs.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits and probabilities, and what else there is."""
        if self.inside:
            images = (images.permute(0, 3, 1, 2).float() / self.top - self.mean) / self.std
        if not self.verdicts:
            return self.decode(self.network(images))
        distances: list[Tensor] = []
        if self.familiar is None:
            found = self.network(images)
        else:
            found = self.familiar.look(self.network, images)
            found, distances = found[:, :-1], [found[:, -1]]
        logits, decoded = self.decode(found)
        far = distances[0] if distances else None
        told = abstention.verdicts(self.task, decoded, far, self.calibration)
        return logits, decoded, told, *distances


def outputs_of(model: Model) -> list[str]:
    """Names of what a graph puts out."""
    told = [VERDICT] if abstention.gives_verdicts(model.manifest) else []
    return [*model.task.outputs, *told, *([DISTANCE] if told and model.familiar is not None else [])]


def picture_input(model: Model) -> ImageInput:
    """How pictures become a model's input.

    Raises:
        InputError: it takes something else than pictures.
    """
    if not isinstance(model.inputs, ImageInput):
        raise InputError(
            f"{model.manifest.backbone} takes {model.inputs.modality} items; "
            "only models of pictures are exported.",
            hint="The bundle itself can be copied and loaded with tlsearch.load.",
        )
    return model.inputs


def traced(model: Model, options: Options) -> torch.export.ExportedProgram:
    """The whole model as an exported program whose batch size is open.

    Raises:
        ExportError: torch can't trace it, or only for one batch size.
    """
    inputs = picture_input(model)
    whole = Whole(model, inside=options.inside).requires_grad_(False)
    noise = inputs.example(2).permute(0, 2, 3, 1).contiguous()
    example = noise if options.inside else torch.zeros(2, *inputs.shape)
    batch = torch.export.Dim("batch", min=1, max=MOST)
    try:
        with torch.no_grad():
            return torch.export.export(whole, (example,), dynamic_shapes=({0: batch},))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"{model.manifest.backbone} with {model.manifest.strategy} can't be traced: {reason}",
            hint="Try another format: --format timm or huggingface.",
        ) from error
