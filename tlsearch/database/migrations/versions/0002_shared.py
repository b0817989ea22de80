"""What studies need where several people share a database: owners, forks, requests, priorities, audits."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


# Columns are added, none is changed: SQLite would have to rebuild the table for that, and dropping the old
# one would cascade to all trials.
def upgrade() -> None:
    for name in ("owner", "job", "cluster"):
        op.add_column("studies", sa.Column(name, sa.Text(), nullable=False, server_default=""))
    for name in ("parent", "requested_by"):
        op.add_column("studies", sa.Column(name, sa.Text(), nullable=True))
    op.add_column("studies", sa.Column("audit", sa.JSON(), nullable=False, server_default="{}"))
    # As plain SQL, for Alembic adds no CHECK to an existing table of SQLite.
    op.execute(
        "ALTER TABLE studies ADD COLUMN request TEXT "
        "CONSTRAINT ck_studies_request CHECK (request IN ('pause', 'cancel'))"
    )
    op.execute(
        "ALTER TABLE studies ADD COLUMN priority BIGINT DEFAULT 1 NOT NULL "
        "CONSTRAINT ck_studies_priority CHECK (priority >= 1)"
    )


def downgrade() -> None:
    for name in ("priority", "request", "audit", "requested_by", "parent", "cluster", "job", "owner"):
        op.execute(f"ALTER TABLE studies DROP COLUMN {name}")
