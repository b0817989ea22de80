"""Rows to records and records to rows. What isn't finite is dropped on the way in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Row

from tlsearch.database.places import present, with_moved_paths
from tlsearch.records import (
    Artifact,
    Costs,
    DatasetRecord,
    EpochRecord,
    EpochResult,
    ModelRecord,
    Outcome,
    PluginVersion,
    Point,
    StudyRecord,
    StudyRequest,
    StudyState,
    TrialRecord,
    TrialRole,
    TrialState,
)


def now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


def finite(value: Any) -> float | None:
    """The number, or None for what isn't one."""
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def finite_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The metrics that are finite numbers."""
    numbers = {str(name): finite(value) for name, value in metrics.items()}
    return {name: number for name, number in numbers.items() if number is not None}


def finite_json(value: Any) -> Any:
    """The value with None in place of NaN and infinities, however deep."""
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, Mapping):
        return {str(key): finite_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_json(item) for item in value]
    return value


def point_values(point: Point) -> dict[str, Any]:
    """The columns of a trial that its point decides."""
    return {
        "number": int(point.number),
        "role": TrialRole(point.role).value,
        "confirms": point.confirms,
        "backbone": point.backbone,
        "strategy": point.strategy,
        "params": finite_json(point.params),
        "seed": int(point.seed),
        "attempt": int(point.attempt),
    }


def started_values(point: Point, *, node: str) -> dict[str, Any]:
    """All columns but the study of a trial that starts now."""
    nothing = Outcome(state=TrialState.RUNNING, reason="")
    return {
        **point_values(point),
        **_outcome_values(nothing),
        "node": node,
        "started": now(),
        "finished": None,
    }


def ended_values(outcome: Outcome) -> dict[str, Any]:
    """The columns of a trial that its outcome decides."""
    if not TrialState(outcome.state).final:
        raise ValueError(f"an outcome can't be {outcome.state}")
    return {**_outcome_values(outcome), "finished": now()}


def _outcome_values(outcome: Outcome) -> dict[str, Any]:
    costs, artifact = outcome.costs, outcome.artifact
    return {
        "state": TrialState(outcome.state).value,
        "reason": outcome.reason,
        "value": finite(outcome.value),
        "metrics": finite_metrics(outcome.metrics),
        "seconds": finite(costs.seconds) or 0.0,
        "prefix_images": int(costs.prefix_images),
        "suffix_images": int(costs.suffix_images),
        "flops": finite(costs.flops) or 0.0,
        "trainable_parameters": int(costs.trainable_parameters),
        "total_parameters": int(costs.total_parameters),
        "freeze_depth": outcome.freeze_depth,
        "groups": outcome.groups,
        "cache": outcome.cache,
        "artifact_uri": artifact.uri if artifact else None,
        "artifact_sha256": artifact.sha256 if artifact else None,
        "artifact_bytes": int(artifact.bytes) if artifact else None,
    }


def epoch_values(trial_id: int, result: EpochResult) -> dict[str, Any]:
    """A point of a learning curve as a row."""
    return {
        "trial_id": trial_id,
        "attempt": int(result.attempt),
        "epoch": int(result.epoch),
        "value": finite(result.value),
        "metrics": finite_metrics(result.metrics),
        "seconds": finite(result.seconds) or 0.0,
    }


def dataset_values(dataset: DatasetRecord) -> dict[str, Any]:
    """A data set as a row."""
    return {
        "fingerprint": dataset.fingerprint,
        "source": dataset.source,
        "classes": list(dataset.classes),
        "counts": dict(dataset.counts),
        "broken": list(dataset.broken),
    }


def plugin_values(plugins: Sequence[PluginVersion]) -> list[dict[str, str]]:
    """Plugin versions as JSON."""
    return [asdict(plugin) for plugin in plugins]


def model_values(model: ModelRecord) -> dict[str, Any]:
    """A pinned model as a row, without its study."""
    return {
        "trial": int(model.trial),
        "uri": model.uri,
        "sha256": model.sha256,
        "bytes": int(model.bytes),
        "verified": bool(model.verified),
        "metrics": {split: finite_metrics(metrics) for split, metrics in model.metrics.items()},
        "created": model.created,
    }


def trial_record(study: str, row: Row[Any], *, home: Path | None) -> TrialRecord:
    """A row of trials as a record; ``home`` is the database file's folder, see `places.present`."""
    artifact = None
    if row.artifact_uri is not None:
        uri = present(row.artifact_uri, home)
        artifact = Artifact(uri=uri, sha256=row.artifact_sha256, bytes=row.artifact_bytes)
    return TrialRecord(
        study=study,
        number=row.number,
        state=TrialState(row.state),
        reason=row.reason,
        role=TrialRole(row.role),
        confirms=row.confirms,
        backbone=row.backbone,
        strategy=row.strategy,
        freeze_depth=row.freeze_depth,
        groups=row.groups,
        params=row.params,
        value=row.value,
        metrics=row.metrics,
        costs=Costs(
            seconds=row.seconds,
            prefix_images=row.prefix_images,
            suffix_images=row.suffix_images,
            flops=row.flops,
            trainable_parameters=row.trainable_parameters,
            total_parameters=row.total_parameters,
        ),
        seed=row.seed,
        attempt=row.attempt,
        cache=row.cache,
        node=row.node,
        started=row.started,
        finished=row.finished,
        artifact=artifact,
    )


def curve(rows: Sequence[Row[Any]]) -> list[EpochRecord]:
    """One learning curve of all attempts: where an attempt took over, the earlier one's epochs end."""
    kept: list[Row[Any]] = []
    for row in sorted(rows, key=lambda row: (-row.attempt, -row.epoch)):
        if not kept or row.attempt == kept[-1].attempt or row.epoch < kept[-1].epoch:
            kept.append(row)
    return [
        EpochRecord(
            epoch=row.epoch, value=row.value, metrics=row.metrics, seconds=row.seconds, attempt=row.attempt
        )
        for row in reversed(kept)
    ]


@dataclass
class Counted:
    """Trials of a study by state: all of them, and those of its search."""

    of_all: dict[TrialState, int] = field(default_factory=lambda: dict.fromkeys(TrialState, 0))
    of_search: dict[TrialState, int] = field(default_factory=lambda: dict.fromkeys(TrialState, 0))

    def add(self, state: TrialState, role: TrialRole, number: int) -> None:
        """Count so many more."""
        self.of_all[state] += number
        if role is TrialRole.SEARCH:
            self.of_search[state] += number


def study_record(row: Row[Any], counted: Counted, *, database_now: float, home: Path | None) -> StudyRecord:
    """A row of studies, joined with its data set's fingerprint and one of its files, as a record.

    A study whose driver let its lease run out is shown as interrupted, whatever it wrote last; one that
    was to be cancelled and isn't driven, as cancelled. ``home`` as in `trial_record`.
    """
    state, reason = StudyState(row.state), row.reason
    if state is StudyState.RUNNING and (row.lease_until is None or row.lease_until < database_now):
        state = StudyState.INTERRUPTED
        reason = f"its driver {row.lease_owner} stopped without a word; last heard of {moment(row.updated)}"
    if row.request == StudyRequest.CANCEL and state in (StudyState.INTERRUPTED, StudyState.FAILED):
        state, reason = StudyState.CANCELLED, f"cancelled by {row.requested_by}"
    return StudyRecord(
        name=row.name,
        state=state,
        reason=reason,
        spec=with_moved_paths(row.spec, row.kept, home),
        metric=row.metric,
        direction=row.direction,
        fingerprint=row.fingerprint,
        plugins=tuple(PluginVersion(**plugin) for plugin in row.plugins),
        versions=row.versions,
        seconds=row.seconds,
        created=row.created,
        updated=row.updated,
        counts=counted.of_all,
        searched=counted.of_search,
        owner=row.owner,
        parent=row.parent,
        request=None if row.request is None else StudyRequest(row.request),
        requested_by=row.requested_by,
        priority=row.priority,
        job=row.job,
        cluster=row.cluster,
        audit=row.audit,
    )


def dataset_record(row: Row[Any]) -> DatasetRecord:
    """A row of datasets as a record."""
    return DatasetRecord(
        fingerprint=row.fingerprint,
        source=row.source,
        classes=tuple(row.classes),
        counts=row.counts,
        broken=tuple(row.broken),
    )


def model_record(study: str, row: Row[Any], *, home: Path | None) -> ModelRecord:
    """A row of models as a record; ``home`` as in `trial_record`."""
    return ModelRecord(
        study=study,
        trial=row.trial,
        uri=present(row.uri, home),
        sha256=row.sha256,
        bytes=row.bytes,
        verified=row.verified,
        metrics=row.metrics,
        created=row.created,
    )


def moment(time: datetime | float) -> str:
    """A time as messages show it."""
    when = datetime.fromtimestamp(time, UTC) if isinstance(time, float) else time
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")
