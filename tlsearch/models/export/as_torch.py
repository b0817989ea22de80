"""``model.pt2``: a torch.export program, which torch loads without the model's code."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tlsearch.models.export.inference_graph import Options, traced
from tlsearch.models.export.preprocessing_config import carry, described
from tlsearch.models.model import Model


def write(model: Model, folder: Path, options: Options) -> str:
    """Fill a folder; returns the name of the script that predicts with it."""
    how = described(model, inside=options.inside)
    torch.export.save(
        traced(model, options), folder / "model.pt2", extra_files={"preprocessing.json": json.dumps(how)}
    )
    return carry(folder, how, "predict_torch.py")
