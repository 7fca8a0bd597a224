"""The database's schema, brought from one revision to another with Alembic, over a connection that is already open.

Alembic's ``context`` and ``op`` belong to the process, so only one migration runs at a time: the lock that keeps two
gateways apart (``agent.store.database``) is taken before.
"""

import functools
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from agent.store.tables import metadata

_FOLDER: Final = Path(__file__).parent / "migrations"


def current(connection: Connection) -> str | None:
    """The revision of the database; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


@functools.cache
def revisions() -> tuple[str, ...]:
    """Every revision that this program knows, the one that it needs last; the first time it reads files."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())[::-1]


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Go forward to a revision."""
    command.upgrade(_config(connection), revision)


def downgrade(connection: Connection, revision: str) -> None:
    """Go back to a revision; ``base`` is the empty database."""
    command.downgrade(_config(connection), revision)


def differences(connection: Connection) -> list[Any]:
    """What the database has otherwise than ``agent.store.tables``; empty where they agree."""
    return list(compare_metadata(MigrationContext.configure(connection), metadata))


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
