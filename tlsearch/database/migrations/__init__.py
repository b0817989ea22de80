"""Alembic's migrations of the study database; run by ``tlsearch.database.schema``.

A new schema version is a file ``versions/NNNN_what.py`` whose ``down_revision`` is the one before, an entry
in ``schema.REVISIONS``, and the models in ``tables.py`` changed alike: a test holds the three together.
"""
