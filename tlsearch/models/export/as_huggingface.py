"""A folder as on the Hugging Face hub: a model card, a configuration, safetensors.

Where timm can hold the model, timm loads it from there; otherwise the folder is a tlsearch bundle.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tlsearch.errors import InputError
from tlsearch.models import bundle
from tlsearch.models.export import as_timm
from tlsearch.models.export.card import card
from tlsearch.models.export.inference_graph import Options
from tlsearch.models.export.preprocessing_config import carry, described
from tlsearch.models.model import Model


def write(model: Model, folder: Path, options: Options) -> str:
    """Fill a folder; returns the name of the script that predicts with it."""
    try:
        script, library = as_timm.write(model, folder, options), "timm"
    except InputError:
        script, library = _as_bundle(model, folder), "tlsearch"
    (folder / "README.md").write_text(card(model, library=library), encoding="utf-8")
    return script


def _as_bundle(model: Model, folder: Path) -> str:
    for name in (bundle.WEIGHTS, bundle.MANIFEST):
        shutil.copyfile(model.folder / name, folder / name)
    config = {
        "library_name": "tlsearch",
        "architecture": model.manifest.backbone,
        "num_classes": len(model.classes),
        "label_names": list(model.classes),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False), encoding="utf-8")
    return carry(folder, described(model, inside=False), "predict_bundle.py")
