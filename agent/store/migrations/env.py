"""Alembic runs this for every command; ``agent.store.migrate`` has put an open connection into the configuration.

The transaction and the lock around it are the caller's.
"""

from alembic import context

from agent.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters tables by copying them
)
with context.begin_transaction():
    context.run_migrations()
