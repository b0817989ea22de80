"""What a fresh process makes of a plugin that it only knows by name; started by the contract tests."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tlsearch import registry
from tlsearch.testing import fixtures


def main() -> None:
    """Read the request (first argument), write the answer (second)."""
    torch.set_num_threads(1)
    request = json.loads(Path(sys.argv[1]).read_text())
    answer = {"strategy": _strategy, "backbone": _backbone, "dataset": _dataset}[request["kind"]](request)
    Path(sys.argv[2]).write_text(json.dumps(answer))


def _strategy(request: Mapping[str, Any]) -> dict[str, Any]:
    """The space for each tiny backbone, and what saved models say of the probe images."""
    from safetensors.torch import load_file

    from tlsearch.models.rebuild import rebuild
    from tlsearch.testing.trial_harness import probe

    name = request["name"]
    strategy = registry.strategy(name)
    logits = []
    for saved in request["saved"]:
        model = rebuild(
            backbone=saved["backbone"],
            weights="pretrained",
            image_size=None,
            strategy=name,
            params=saved["params"],
            **fixtures.learned(fixtures.CLASSES),
            state=load_file(Path(saved["path"])),
        )
        with torch.inference_mode():
            logits.append(model(probe()).tolist())
    infos = [
        registry.backbone(backbone, weights="pretrained", image_size=None).info
        for backbone in (fixtures.CNN, fixtures.VIT)
    ]
    return {"spaces": [repr(sorted(strategy.space(info).items())) for info in infos], "logits": logits}


def _backbone(request: Mapping[str, Any]) -> dict[str, Any]:
    """The weights' hash and the features of two examples."""
    pretrained = registry.backbone(
        request["name"], weights=request["weights"], image_size=request["image_size"]
    )
    inputs = pretrained.info.inputs
    with torch.inference_mode():
        features = pretrained.trunk.eval()(inputs.to_model(inputs.example(2)))
    return {"weights_sha256": pretrained.info.weights_sha256, "features": features.tolist()}


def _dataset(request: Mapping[str, Any]) -> dict[str, Any]:
    """The fingerprint of the data."""
    from tlsearch import spec
    from tlsearch.training import sources

    study = spec.parse({"study": "contract", "data": request["data"], "backbones": [fixtures.CNN]})
    return {"fingerprint": sources.listing(study.data).fingerprint}


if __name__ == "__main__":
    main()
