"""Studies, trials, learning curves, models and data sets."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.DateTime(timezone=True)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=nullable)


def _key(name: str) -> sa.Column[int]:
    return sa.Column(name, KEY, nullable=False)


def _whole(name: str, *, nullable: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=nullable)


def _real(name: str, *, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Double(), nullable=nullable)


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False)


def upgrade() -> None:
    op.create_table(
        "datasets",
        _key("id"),
        _text("fingerprint"),
        _text("source"),
        _json("classes"),
        _json("counts"),
        _json("broken"),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
        sa.UniqueConstraint("fingerprint", name="uq_datasets_fingerprint"),
    )
    op.create_table(
        "studies",
        _key("id"),
        _text("name"),
        _key("dataset_id"),
        _json("spec"),
        _text("metric"),
        _text("direction"),
        _text("state"),
        _text("reason"),
        _json("plugins"),
        _json("versions"),
        _real("seconds"),
        _text("lease_owner", nullable=True),
        _whole("lease_token"),
        _real("lease_since", nullable=True),
        _real("lease_until", nullable=True),
        _text("last_write"),
        sa.Column("created", TIME, nullable=False),
        sa.Column("updated", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_studies"),
        sa.UniqueConstraint("name", name="uq_studies_name"),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_studies_dataset_id"),
        sa.CheckConstraint(
            "state IN ('RUNNING', 'INTERRUPTED', 'COMPLETE', 'FAILED')", name=op.f("ck_studies_state")
        ),
        sa.CheckConstraint("direction IN ('maximize', 'minimize')", name=op.f("ck_studies_direction")),
    )
    op.create_index("ix_studies_dataset_id", "studies", ["dataset_id"])
    op.create_table(
        "trials",
        _key("id"),
        _key("study_id"),
        _whole("number"),
        _text("state"),
        _text("reason"),
        _text("role"),
        _whole("confirms", nullable=True),
        _text("backbone"),
        _text("strategy"),
        _whole("freeze_depth", nullable=True),
        _whole("groups", nullable=True),
        _json("params"),
        _real("value", nullable=True),
        _json("metrics"),
        _real("seconds"),
        _whole("prefix_images"),
        _whole("suffix_images"),
        _real("flops"),
        _whole("trainable_parameters"),
        _whole("total_parameters"),
        _whole("seed"),
        _whole("attempt"),
        _text("cache"),
        _text("node"),
        sa.Column("started", TIME, nullable=False),
        sa.Column("finished", TIME, nullable=True),
        _text("artifact_uri", nullable=True),
        _text("artifact_sha256", nullable=True),
        _whole("artifact_bytes", nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_trials"),
        sa.UniqueConstraint("study_id", "number", name="uq_trials_study_id_number"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_trials_study_id", ondelete="CASCADE"),
        sa.CheckConstraint(
            "state IN ('RUNNING', 'COMPLETE', 'PRUNED', 'FAILED', 'CANCELLED')",
            name=op.f("ck_trials_state"),
        ),
        sa.CheckConstraint("role IN ('search', 'confirm')", name=op.f("ck_trials_role")),
        sa.CheckConstraint("number >= 0", name=op.f("ck_trials_number")),
        sa.CheckConstraint("attempt >= 1", name=op.f("ck_trials_attempt")),
    )
    op.create_index("ix_trials_best", "trials", ["study_id", "state", "role", "value"])
    op.create_table(
        "epochs",
        sa.Column("trial_id", KEY, autoincrement=False, nullable=False),
        sa.Column("attempt", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), autoincrement=False, nullable=False),
        _real("value", nullable=True),
        _json("metrics"),
        _real("seconds"),
        sa.PrimaryKeyConstraint("trial_id", "attempt", "epoch", name="pk_epochs"),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name="fk_epochs_trial_id", ondelete="CASCADE"),
    )
    op.create_table(
        "models",
        _key("id"),
        _key("study_id"),
        _whole("trial"),
        _text("uri"),
        _text("sha256"),
        _whole("bytes"),
        sa.Column("verified", sa.Boolean(), nullable=False),
        _json("metrics"),
        sa.Column("created", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
        sa.UniqueConstraint("study_id", name="uq_models_study_id"),
        sa.ForeignKeyConstraint(["study_id"], ["studies.id"], name="fk_models_study_id", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["study_id", "trial"],
            ["trials.study_id", "trials.number"],
            name="fk_models_study_id_trial",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    for table in ("models", "epochs", "trials", "studies", "datasets"):
        op.drop_table(table)
