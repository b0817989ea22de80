"""``config.json`` and ``model.safetensors``: a folder that plain timm loads by itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tlsearch.contracts import Backbone
from tlsearch.errors import InputError
from tlsearch.models.ensemble import Ensemble
from tlsearch.models.export.inference_graph import Options, picture_input
from tlsearch.models.export.preprocessing_config import carry, described
from tlsearch.models.model import Model

CROP_MODES = {"crop": "center", "pad": "border", "squash": "squash"}
"""What timm calls the ways in which a picture becomes a square; it fills borders with the mean, too."""
HINT = "`--format onnx`, `torch` and `huggingface` take any model."
PROBES = 64
"""Random features that a head is tried on."""


def write(model: Model, folder: Path, options: Options) -> str:
    """Fill a folder; returns the name of the script that predicts with it.

    Raises:
        InputError: the model isn't one that timm can hold.
    """
    whole = merged(model)
    state = {name: tensor.contiguous().clone() for name, tensor in whole.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(_config(model, whole), indent=2, ensure_ascii=False)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    return carry(folder, described(model, inside=False, verdicts=False), "predict_timm.py")


def merged(model: Model) -> nn.Module:
    """The trunk as timm's own model with the head, and the temperature, in timm's classifier.

    Raises:
        InputError: the trunk isn't timm's, or the head isn't one linear layer there.
    """
    network, name = model.network, model.manifest.backbone
    check_kind(model)
    if isinstance(network, Ensemble):
        averaged = f"{len(network.members)} networks" if len(network.members) > 1 else "mirrored images"
        raise InputError(f"This model averages {averaged}, and a timm model is one network.", hint=HINT)
    weight, bias = fits(network, strategy=model.manifest.strategy)
    found: Any = network.trunk
    whole: Any = copy.deepcopy(found).cpu().float()
    whole.to(memory_format=torch.contiguous_format)
    try:
        whole.reset_classifier(network.outputs)
        classifier = whole.get_classifier()
        with torch.no_grad():
            classifier.weight.copy_((weight / model.temperature).reshape(classifier.weight.shape))
            shift, _ = model.task.decode(
                torch.zeros(1, len(bias)), model.target_spec, model.manifest.calibration
            )
            classifier.bias.copy_(bias / model.temperature + shift[0])
    except (AttributeError, RuntimeError, TypeError) as error:
        raise InputError(f"The classifier of {name} isn't one linear layer: {error}", hint=HINT) from error
    return whole.eval().requires_grad_(False)


def check_kind(model: Model) -> None:
    """Refuse what no timm model is, whatever network it has.

    Raises:
        InputError: it reads other pictures than 8-bit RGB, or is no classifier.
    """
    if model.inputs.reading():
        inputs = picture_input(model)
        raise InputError(
            f"timm reads pictures as 8-bit RGB, and this model takes {inputs.channels} channels of "
            f"{inputs.bits} bits.",
            hint=HINT,
        )
    if not model.task.probabilities:
        raise InputError(
            f"timm models are classifiers, and this model learned {model.manifest.task}.", hint=HINT
        )


def fits(network: Backbone, *, strategy: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of the head of a network that timm can hold.

    Raises:
        InputError: the trunk isn't timm's, or the head isn't linear.
    """
    found: Any = network.trunk
    if not hasattr(found, "reset_classifier") or not getattr(found, "pretrained_cfg", None):
        raise InputError(f"{network.info.name} isn't a timm model, so timm can't load it.", hint=HINT)
    return linear_part(network, strategy=strategy)


@torch.no_grad()
def linear_part(network: Backbone, *, strategy: str) -> tuple[Tensor, Tensor]:
    """Weight (classes, width) and bias (classes,) of a head that is one linear map, whatever it is made of.

    The head is asked, not its class: what it says of zero is the bias, of the unit vectors the weight, and
    on random features it must agree with both.

    Raises:
        InputError: it is no linear map.
    """
    width = network.info.width
    head = copy.deepcopy(network.head).cpu().double().eval()
    bias = head(torch.zeros(1, width, dtype=torch.float64))[0]
    weight = (head(torch.eye(width, dtype=torch.float64)) - bias).T
    generator = torch.Generator().manual_seed(0)
    features = 10 * torch.randn(PROBES, width, generator=generator, dtype=torch.float64)
    expected = features @ weight.T + bias
    if not torch.allclose(head(features), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max())):
        raise InputError(
            f"The head that {strategy} fitted isn't a linear layer, so timm can't load it.", hint=HINT
        )
    return weight, bias


def _config(model: Model, whole: Any) -> dict[str, Any]:
    """What timm reads: https://huggingface.co/docs/timm/main/en/hf_hub."""
    inputs = picture_input(model)
    own = dict(whole.pretrained_cfg)
    shape = [3, inputs.size, inputs.size]
    kept = {key: own.get(key) for key in ("pool_size", "first_conv", "classifier", "fixed_input_size")}
    values = {
        "architecture": own["architecture"],
        "num_classes": len(model.classes),
        "num_features": whole.num_features,
        "global_pool": getattr(whole, "global_pool", None),
    }
    return {
        **{key: value for key, value in values.items() if isinstance(value, str | int)},
        "label_names": list(model.classes),
        "model_args": {"img_size": inputs.size} if own.get("fixed_input_size") else {},
        "pretrained_cfg": {
            **{key: value for key, value in kept.items() if value is not None},
            "tag": "tlsearch",
            "custom_load": False,
            "num_classes": len(model.classes),
            "input_size": shape,
            "test_input_size": shape,
            "interpolation": inputs.interpolation,
            "crop_pct": inputs.crop if inputs.resize == "crop" else 1.0,
            "crop_mode": CROP_MODES[inputs.resize],
            "mean": list(inputs.mean),
            "std": list(inputs.std),
        },
    }
