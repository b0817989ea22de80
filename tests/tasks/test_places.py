"""Where the core still acts on classes by itself instead of asking the task: it may only get shorter."""

from __future__ import annotations

import re
from pathlib import Path

CORE = Path(__file__).parents[2] / "tlsearch"
ROOMS = ("contracts", "training", "search", "database", "models", "reports", "cli", "cluster", "spec")
ACTING = re.compile(
    r"\.classes\b|softmax\(|cross_entropy|one_hot|argmax\((dim|axis)=1\)"
    r"|[\"'](accuracy|balanced_accuracy|macro_f1|log_loss)[\"']|\bminimize.*log_loss"
)
KNOWN = {
    # The page, card and figures of a classifier: `Task.probabilities` keeps other tasks out of them.
    "models/export/card.py": 3,
    "reports/answer.py": 1,
    "reports/data_findings.py": 1,
    "reports/examination.py": 3,
    "reports/model_figures.py": 2,
    "reports/formatting.py": 1,
    # Wrong labels are looked for among classes alone; other tasks are refused.
    "training/suspects.py": 3,
    "search/label_audit.py": 2,
    # What formats of others call outputs, and the scripts beside an export.
    "models/export/as_huggingface.py": 2,
    "models/export/as_timm.py": 3,
    "models/export/carried/predict_timm.py": 1,
    "models/export/preprocessing_config.py": 1,
    "models/serving/server.py": 1,
    # Public names of a model: `Model.classes` and `Model.predict`.
    "models/model.py": 2,
    "models/manifest.py": 1,
    # The column and the document that a study's database calls classes.
    "database/rows.py": 2,
    # The most alike of pictures, no classes.
    "training/duplicates.py": 1,
}
"""Lines by file."""


def acting(path: Path) -> int:
    """Lines of code, without comments, that act on classes."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return sum(bool(ACTING.search(line.partition(" # ")[0])) for line in lines)


def test_the_core_asks_the_task():
    found = {
        path.relative_to(CORE).as_posix(): count
        for room in ROOMS
        for path in sorted((CORE / room).rglob("*.py"))
        if (count := acting(path))
    }
    more = {name: count for name, count in found.items() if count > KNOWN.get(name, 0)}
    assert not more, "ask the task in tlsearch/contracts/task.py instead"
    fewer = {name: found.get(name, 0) for name, count in KNOWN.items() if found.get(name, 0) < count}
    assert not fewer, "good: write the smaller number into KNOWN"
