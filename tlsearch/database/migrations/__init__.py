"""Alembic's migrations of the study database; run by ``tlsearch.database.schema``."""
