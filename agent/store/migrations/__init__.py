"""The schema's history, for Alembic: one file per step in ``versions``."""
