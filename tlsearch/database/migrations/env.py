"""Alembic's environment. The connection comes from ``schema``, already in a transaction and locked."""

from alembic import context

from tlsearch.database.schema import VERSION_TABLE
from tlsearch.database.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
