"""The tables of the study database, as SQLAlchemy models.

Everything is written with Core statements and read as rows; the models exist for their types and for
Alembic, which holds them against the migrations.
"""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from tlsearch.records import StudyRequest, StudyState, TrialRole, TrialState


def plain(text: str) -> str:
    """The text as it is stored."""
    return str(text).replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


class PlainText(TypeDecorator[str]):
    """Text that either database takes: PostgreSQL refuses NUL, and both refuse lone surrogates.

    Reasons come from exceptions and sources from file names, so both do occur; they are escaped.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """Escape what can't be stored."""
        return None if value is None else plain(value)


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC, timezone-aware in Python on both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Turn any aware time into UTC; a naive one is a bug."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a time without a zone: {value.isoformat()}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """SQLite forgets the zone, PostgreSQL answers in the session's."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


Key = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by itself only in INTEGER


class Base(DeclarativeBase):
    """Types and constraint names that all tables share."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        str: PlainText,
        datetime: UtcTime,
        float: Double,
        int: BigInteger,
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }


def _one_of(column: str, values: type[enum.StrEnum] | tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class DatasetRow(Base):
    """Data that studies searched on, by content."""

    __tablename__ = "datasets"

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    fingerprint: Mapped[str] = mapped_column(unique=True)
    source: Mapped[str]
    classes: Mapped[list[Any]]
    counts: Mapped[dict[str, Any]]
    broken: Mapped[list[Any]]


class StudyRow(Base):
    """A study and the lease of the driver that runs it.

    Lease times are seconds since 1970 by the database's clock. ``last_write`` is the stamp of the
    latest write transaction: a transaction tried again after a lost connection finds its own stamp
    when the first try did commit.

    ``request`` is what ``requested_by`` asks of the driver from elsewhere. ``parent`` is the study that
    this one was forked from; ``job`` and ``cluster`` say where it ran last. ``test_openings`` counts how
    often models were scored on the test set.
    """

    __tablename__ = "studies"
    __table_args__ = (
        # CANCELLED is told from the request, and never stored.
        _one_of("state", tuple(state for state in StudyState if state is not StudyState.CANCELLED)),
        _one_of("direction", ("maximize", "minimize")),
        _one_of("request", StudyRequest),
        CheckConstraint("priority >= 1", name="priority"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    dataset_id: Mapped[int] = mapped_column(ForeignKey("datasets.id"), index=True)
    spec: Mapped[dict[str, Any]]
    metric: Mapped[str]
    direction: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str]
    plugins: Mapped[list[Any]]
    versions: Mapped[dict[str, Any]]
    seconds: Mapped[float]
    lease_owner: Mapped[str | None]
    lease_token: Mapped[int]
    lease_since: Mapped[float | None]
    lease_until: Mapped[float | None]
    last_write: Mapped[str]
    created: Mapped[datetime]
    updated: Mapped[datetime]
    owner: Mapped[str]
    parent: Mapped[str | None]
    request: Mapped[str | None]
    requested_by: Mapped[str | None]
    priority: Mapped[int]
    job: Mapped[str]
    cluster: Mapped[str]
    audit: Mapped[dict[str, Any]]
    test_openings: Mapped[int]


class ItemsRow(Base):
    """The items of a study's data with their splits, fixed when it was first prepared.

    ``content`` is JSON, deflated: a million items are one value of some 40 megabytes, which is read where
    it is needed and not with every row of ``studies``.
    """

    __tablename__ = "items"

    study_id: Mapped[int] = mapped_column(
        Key, ForeignKey("studies.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    content: Mapped[bytes]


class TrialRow(Base):
    """A trial; a retry is the same row with the next attempt."""

    __tablename__ = "trials"
    __table_args__ = (
        UniqueConstraint("study_id", "number"),
        # `best` walks the end of this index; `running` and `counts` use its first columns.
        Index("ix_trials_best", "study_id", "state", "role", "value"),
        _one_of("state", TrialState),
        _one_of("role", TrialRole),
        CheckConstraint("number >= 0", name="number"),
        CheckConstraint("attempt >= 1", name="attempt"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"))
    number: Mapped[int]
    state: Mapped[str]
    reason: Mapped[str]
    role: Mapped[str]
    confirms: Mapped[int | None]
    backbone: Mapped[str]
    strategy: Mapped[str]
    freeze_depth: Mapped[int | None]
    groups: Mapped[int | None]
    params: Mapped[dict[str, Any]]
    value: Mapped[float | None]
    metrics: Mapped[dict[str, Any]]
    seconds: Mapped[float]
    prefix_images: Mapped[int]
    suffix_images: Mapped[int]
    flops: Mapped[float]
    trainable_parameters: Mapped[int]
    total_parameters: Mapped[int]
    seed: Mapped[int]
    attempt: Mapped[int]
    cache: Mapped[str]
    node: Mapped[str]
    started: Mapped[datetime]
    finished: Mapped[datetime | None]
    artifact_uri: Mapped[str | None]
    artifact_sha256: Mapped[str | None]
    artifact_bytes: Mapped[int | None]


class EpochRow(Base):
    """A point of a learning curve."""

    __tablename__ = "epochs"

    trial_id: Mapped[int] = mapped_column(
        Key, ForeignKey("trials.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    attempt: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    value: Mapped[float | None]
    metrics: Mapped[dict[str, Any]]
    seconds: Mapped[float]


class ModelRow(Base):
    """The one pinned model of a study."""

    __tablename__ = "models"
    __table_args__ = (
        ForeignKeyConstraint(["study_id", "trial"], ["trials.study_id", "trials.number"], ondelete="CASCADE"),
    )

    id: Mapped[int] = mapped_column(Key, primary_key=True)
    study_id: Mapped[int] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), unique=True)
    trial: Mapped[int]
    uri: Mapped[str]
    sha256: Mapped[str]
    bytes: Mapped[int]
    verified: Mapped[bool]
    metrics: Mapped[dict[str, Any]]
    created: Mapped[datetime]


DATASETS = Base.metadata.tables["datasets"]
STUDIES = Base.metadata.tables["studies"]
ITEMS = Base.metadata.tables["items"]
TRIALS = Base.metadata.tables["trials"]
EPOCHS = Base.metadata.tables["epochs"]
MODELS = Base.metadata.tables["models"]
