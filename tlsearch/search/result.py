"""What a run of a study came to."""

from __future__ import annotations

from dataclasses import dataclass

from tlsearch import html_tables
from tlsearch.records import ModelRecord, StudyRecord, TrialRecord


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What a run came to. ``interrupted`` is why it ended early, or empty; ``signal`` the one that did it."""

    study: StudyRecord
    model: ModelRecord | None
    best: TrialRecord | None
    interrupted: str
    signal: int = 0

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        best, model = self.best, self.model
        metrics = model.metrics if model is not None else {}
        metric = self.study.metric
        told: list[tuple[str, object]] = [("state", self.interrupted or self.study.state.value.lower())]
        if best is not None:
            told += [("trial", best.number), ("strategy", best.strategy), ("backbone", best.backbone)]
            told.append((f"val {metric}", metrics.get("val", {}).get(metric, best.value)))
        told += [(f"test {metric}", metrics.get("test", {}).get(metric)), ("model", model and model.uri)]
        return html_tables.facts(self.study.name, told)
