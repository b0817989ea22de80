"""Trials that refit the winner, and how often a study has opened its test set."""

from collections.abc import Sequence

from alembic import op

revision: str = "0004"
down_revision: str | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

OLD = "role IN ('search', 'confirm')"
NEW = "role IN ('search', 'confirm', 'refit')"


def upgrade() -> None:
    op.execute("ALTER TABLE studies ADD COLUMN test_openings BIGINT DEFAULT 0 NOT NULL")
    _replace(OLD, NEW)


def downgrade() -> None:
    op.execute("DELETE FROM trials WHERE role = 'refit'")
    _replace(NEW, OLD)
    op.execute("ALTER TABLE studies DROP COLUMN test_openings")


def _replace(old: str, new: str) -> None:
    """Exchange the CHECK of ``trials.role``."""
    if op.get_context().dialect.name == "postgresql":
        op.execute("ALTER TABLE trials DROP CONSTRAINT ck_trials_role")
        op.execute(f"ALTER TABLE trials ADD CONSTRAINT ck_trials_role CHECK ({new})")
        return
    # SQLite changes no constraint, and dropping the old table of a rebuilt one would delete all that refers
    # to it. Its documentation has this way for a CHECK, which nothing on disk depends on:
    # https://sqlite.org/lang_altertable.html#otheralter
    connection = op.get_bind()
    version = connection.exec_driver_sql("PRAGMA schema_version").scalar_one()
    connection.exec_driver_sql("PRAGMA writable_schema = ON")
    connection.exec_driver_sql(
        "UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE type = 'table' AND name = 'trials'",
        (old, new),
    )
    connection.exec_driver_sql(f"PRAGMA schema_version = {version + 1}")
    connection.exec_driver_sql("PRAGMA writable_schema = OFF")
