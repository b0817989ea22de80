"""A model card: what the model is, how good it is and how sure that is, and what it isn't for.

After Mitchell et al. 2019 (arXiv:1810.03993); the header is the one of https://huggingface.co/docs/hub/model-cards.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import Any

from tlsearch.contracts.verdict import ABSTENTION, NONE, UNSURE
from tlsearch.counts import plural
from tlsearch.models.intervals import over_groups, resampled, wilson
from tlsearch.models.manifest import Manifest
from tlsearch.models.model import Model
from tlsearch.safe_text import for_code, for_markdown

SPLITS = {"val": "validation", "test": "test"}
SQUARED = {
    "crop": "the centre is cut out",
    "pad": "bars are added, nothing is cut off",
    "squash": "squeezed to a square, nothing is cut off",
}
USES = {
    "timm": """import timm
from PIL import Image, ImageOps

model = timm.create_model("local-dir:.", pretrained=True).eval()   # or hf-hub:OWNER/NAME
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
image = ImageOps.exif_transpose(Image.open("image.png")).convert("RGB")  # upright
probabilities = model(transform(image).unsqueeze(0)).softmax(dim=1)[0]
print(model.pretrained_cfg["label_names"][int(probabilities.argmax())])
""",
    "tlsearch": """import tlsearch

print(tlsearch.load(".").predict(["image.png"]))
""",
}


def card(model: Model, *, library: str) -> str:
    """The card as Markdown.

    Args:
        model: what it is about.
        library: what loads the folder that it lies in: ``timm`` or ``tlsearch``.
    """
    manifest = model.manifest
    known = manifest.provenance
    title = known.get("study") or manifest.backbone
    parts = [
        _header(model, library),
        f"# {for_markdown(str(title))}",
        f"{model.task.does(model.target_spec)} Made by tlsearch from "
        f"{for_code(manifest.backbone)} with the strategy {for_code(manifest.strategy)}.",
        f"## Use\n\n```python\n{USES[library]}```\n\nOr `python predict.py image.png`, which reads "
        "rotated, transparent and 16-bit files as training did.",
        "## Data\n\n" + _listed(_data(model)),
        "## Strategy\n\n" + _listed(_strategy(model)),
        "## Metrics\n\n" + _metrics(model),
        "## Limits\n\n" + _listed(_limits(model)),
        "## Provenance\n\n" + _listed(_provenance(model)),
    ]
    return "\n\n".join(parts) + "\n"


def _header(model: Model, library: str) -> str:
    from ruamel.yaml import YAML

    known = model.manifest.provenance
    results = [
        {
            "task": {"type": model.task.pipeline},
            "dataset": {"name": f"{known.get('study', 'unnamed')} ({SPLITS[split]})", "type": "image-folder"},
            "metrics": [
                {"type": name, "value": round(float(scores[name]), 6)}
                for name in _named(model, probabilities=False)
                if name in scores
            ],
        }
        for split, scores in model.manifest.metrics.items()
        if split in SPLITS
    ]
    document = {
        "library_name": library,
        "pipeline_tag": model.task.pipeline,
        "tags": [model.task.pipeline, library, "tlsearch", "transfer-learning"],
        "base_model_relation": "finetune",
        "model-index": [{"name": str(known.get("study", "unnamed")), "results": results}],
    }
    text = io.StringIO()
    writer = YAML()
    writer.default_flow_style = False
    writer.dump(document, text)
    return f"---\n{text.getvalue()}---"


def _named(model: Model, *, probabilities: bool) -> list[str]:
    """Names of the task's metrics, also of those of probabilities if asked."""
    return [metric.name for metric in model.task.metrics if probabilities or not metric.needs_probabilities]


def _data(model: Model) -> list[str]:
    known, names = model.manifest.provenance, model.classes
    listed = ", ".join(for_markdown(name) for name in names[:50]) + (
        f" and {len(names) - 50} more" if len(names) > 50 else ""
    )
    inputs = model.manifest.inputs
    return [
        f"{'Classes' if model.task.probabilities else 'Targets'}: {listed}.",
        f"Fingerprint of items and labels: {_code(known, 'fingerprint')} (SHA-256).",
        "Split by content into training, stop (for early stopping), validation (for choosing) and test; "
        "copies of an image never stand in two splits.",
        *_pixels(inputs),
        for_markdown(
            f"Images are resized to {inputs.get('size')} pixels ({inputs.get('interpolation')}; "
            f"{SQUARED[inputs.get('resize', 'crop')]}), normalized by "
            f"mean {list(inputs.get('mean', []))} and deviation {list(inputs.get('std', []))}."
        ),
    ]


def _pixels(inputs: Mapping[str, Any]) -> list[str]:
    """What is read of an image, where it isn't 8-bit RGB."""
    channels, bits = inputs.get("channels", 3), inputs.get("bits", 8)
    if (channels, bits) == (3, 8):
        return []
    count = plural(channels, "channel")
    return [
        f"Images have {count} of {bits} bits; the first convolution was adapted to them, as timm does."
        if channels != 3
        else f"Images are RGB of {bits} bits a channel."
    ]


def _strategy(model: Model) -> list[str]:
    known, manifest = model.manifest.provenance, model.manifest
    depth, groups = known.get("freeze_depth"), known.get("groups")
    frozen = f"{depth} of {groups} groups of layers kept their pretrained weights." if groups else ""
    hyperparameters = for_markdown(
        ", ".join(f"{name} {_short(value)}" for name, value in manifest.params.items())
    )
    told = [
        f"{for_code(manifest.strategy)} on {for_code(manifest.backbone)}.",
        frozen,
        f"Hyperparameters: {hyperparameters}." if hyperparameters else "",
        _taught_by(manifest),
        _made_of(manifest),
    ]
    return [line for line in told if line]


def _taught_by(manifest: Manifest) -> str:
    """What it was distilled from, where it was."""
    known = manifest.provenance.get("distilled_from")
    if not known:
        return ""
    networks = plural(known["members"], "network")
    return f"Distilled from the study's model, {networks} on {for_code(known['backbone'])}."


def _made_of(manifest: Manifest) -> str:
    """Which items it has learned from, and what it averages."""
    if "val" not in manifest.trained_on:
        return "It has learned from the training items alone: those of the other splits were held out."
    which, before = "The recipe that won on the validation split", "the search's winner"
    if "distilled_from" in manifest.provenance:
        which, before = "The recipe", "the training before that"
    told = (
        f"{which} was trained anew on training, stop and validation items; validation scores are those of "
        f"{before}, test scores are this model's."
    )
    if manifest.members > 1:
        told += f" Probabilities are the mean of {_networks(manifest)}."
    return told + (" Each prediction is averaged with that of the mirrored image." if manifest.flips else "")


def _networks(manifest: Manifest) -> str:
    if not manifest.recipes:
        return f"{manifest.members} networks from as many seeds"
    told = [f"{plural(one.members, 'network')} of {for_code(one.strategy)}" for one in manifest.recipes]
    return " and ".join(told) + ", each recipe with the same weight"


def _metrics(model: Model) -> str:
    calibration = model.manifest.calibration
    counts = {"val": calibration.get("items"), "test": calibration.get("test_items")}
    lines = ["| split | metric | value | 95% interval |", "|---|---|---|---|"]
    for split, scores in model.manifest.metrics.items():
        for name in _named(model, probabilities=True):
            if name not in scores:
                continue
            expected = scores.get(f"{name}_expected")
            items = int(counts.get(split) or 0)
            count = items if name == "accuracy" else 0
            groups = over_groups(scores, name, items)
            # The best of many trials is too good for an interval; its repeated runs have one.
            own = _interval(scores, name, count, groups) if expected is None else "-"
            which = SPLITS.get(split, for_markdown(split))
            lines.append(f"| {which} | {name} | {scores[name]:.4f} | {own} |")
            if expected is not None and count:
                again = _interval({**scores, name: expected}, name, count, groups)
                lines.append(f"| {which}, repeated runs | {name} | {expected:.4f} | {again} |")
    return "\n".join([*lines, "", *_over_seeds(model.manifest.metrics), _calibrated(model)]).rstrip()


def _interval(scores: Mapping[str, float], name: str, count: int, groups: str) -> str:
    """Of a score, as a cell; of a share of so many images by a formula, where they weren't drawn anew."""
    if found := resampled(scores, name):
        return f"{found.low:.4f} to {found.high:.4f} (images drawn anew{groups})"
    if not count:
        return "-"
    found = wilson(scores[name] * count, count)
    return f"{found.low:.4f} to {found.high:.4f} (Wilson, {plural(count, 'image')}{groups})"


def _over_seeds(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    scores = metrics.get("val", {})
    means = [name for name in scores if name.endswith("_mean")]
    if not means or scores.get("seeds", 0) < 2:
        return []
    (name,) = means[:1]
    plain = name.removesuffix("_mean")
    error = scores.get(f"{plain}_standard_error", 0.0)
    return [
        f"Trained with {int(scores['seeds'])} seeds: {plain} on validation "
        f"{scores[name]:.4f} ± {error:.4f} (mean and standard error). The value that won the search "
        "is the best of many, so it is optimistic.",
        "",
    ]


def _calibrated(model: Model) -> str:
    known = model.manifest.calibration
    if not model.task.probabilities:
        return model.task.trust(known)
    return " ".join(sentence for sentence in (_temperature(model), _alike(known)) if sentence)


def _alike(calibration: Mapping[str, Any]) -> str:
    """What was done so that every class counts alike; empty where nothing was."""
    if "adjustment_share" not in calibration:
        return ""
    return (
        f"So that every class counts alike, {calibration['adjustment_share']:.0%} of the log of each class's "
        "share is then taken from its logit: probabilities are those of equally frequent classes. The "
        f"mean recall of validation images that this wasn't fitted on rose from "
        f"{calibration['recall_before_adjustment']:.4f} to {calibration['recall_after_adjustment']:.4f}."
    )


def _temperature(model: Model) -> str:
    known = model.manifest.calibration
    if not known:
        return "Probabilities are not calibrated."
    chance = known.get("error_by_chance")
    noise = (
        f" (perfectly calibrated probabilities would show {chance:.4f} on as many)"
        if chance is not None
        else ""
    )
    items = plural(int(known.get("items", 0)), "validation image")
    if not known.get("used", True):
        return (
            f"Probabilities are not calibrated: {for_markdown(str(known.get('why')))}. Expected calibration "
            f"error {known.get('error_before', math.nan):.4f} on {items}{noise}."
        )
    whose = " of the search's winner" if "val" in model.manifest.trained_on else ""
    return (
        f"Probabilities are calibrated with the temperature {model.temperature:.3f}, fitted on "
        f"{items}{whose}: expected calibration error "
        f"{known.get('error_before', math.nan):.4f} before, {known.get('error_after', math.nan):.4f} after"
        f"{noise}."
    )


def _limits(model: Model) -> list[str]:
    sure = "it may be overconfident" if model.task.probabilities else "it doesn't say so"
    return [
        model.task.limits,
        *_verdicts(model),
        "It was measured on images of the same origin as its training images. On others it may be worse, and "
        f"{sure}.",
        "Where several trials were compared, the validation score chose among them and is optimistic; the "
        "test score isn't.",
        "Nothing was measured about groups of people or conditions of capture inside the classes.",
        "The licences of the pretrained weights and of the data apply to it.",
    ]


def _verdicts(model: Model) -> list[str]:
    """What becomes of items that are hard, or none of its classes."""
    known = model.manifest.calibration.get(ABSTENTION, {}).get("test")
    if not known:
        return []
    return [
        f"With tlsearch, ONNX and torch it says where it is unsure or an image is none of its classes: of "
        f"{plural(known['items'], 'test image')} it called {known[UNSURE]:.1%} {UNSURE} and "
        f"{known[NONE]:.1%} {NONE}."
    ]


def _provenance(model: Model) -> list[str]:
    known, manifest = model.manifest.provenance, model.manifest
    plugins = known.get("plugins", [])
    packages = sorted({f"{plugin['distribution']} {plugin['version']}" for plugin in plugins})
    versions = ", ".join(f"{name} {version}" for name, version in dict(known.get("versions", {})).items())
    told = [
        f"Study {_code(known, 'study')}, "
        + (f"trial {_code(known, 'trial')}, " if "trial" in known else "")
        + f"seed {_code(known, 'seed')}.",
        f"Weights of the bundle: SHA-256 `{manifest.sha256}`.",
        f"Plugins: {for_markdown(', '.join(packages))}." if packages else "",
        f"Versions: {for_markdown(versions)}." if versions else "",
    ]
    return [line for line in told if line]


def _code(known: Mapping[str, Any], key: str) -> str:
    """What provenance says of a key, which whoever wrote the bundle chose."""
    return for_code(str(known.get(key, "unknown")))


def _listed(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
