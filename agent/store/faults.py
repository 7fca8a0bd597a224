"""What a database's errors mean for whoever runs Denwa: one sentence, and what to do. Pure.

Drivers' messages are passed on only where they cannot hold a password or anything of a call.
"""

import sqlite3
from typing import Final
from urllib.parse import urlsplit

import asyncpg
from alembic.util import CommandError
from sqlalchemy import exc

from agent.store.errors import DatabaseError, RecordRefused

FAULTS: Final = (
    exc.SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    sqlite3.Error,
    CommandError,
    OSError,  # TimeoutError among them
    ValueError,
)
"""What a database may raise."""

_SQLITE: Final = {
    "unable to open": "cannot be opened: its folder must exist, and this user must be allowed to write there",
    "readonly": "cannot be written: give this user write access to the file and its folder",
    "locked": "is locked by another program: end that one",
    "not a database": "is no SQLite database: move the file away, or correct storage.database",
    "malformed": "is damaged: move the file away and restore a backup",
    "full": "has no room: free some space on its disk",
    "disk i/o": "cannot be read or written: look at its disk",
}
_POSTGRESQL: Final = (
    (asyncpg.InvalidAuthorizationSpecificationError, "refuses the user: correct name and password in storage.database"),
    (asyncpg.InvalidCatalogNameError, "has no such database: create it with createdb, or correct storage.database"),
    (asyncpg.InsufficientPrivilegeError, "forbids it: GRANT the user ALL ON SCHEMA public and on its tables"),
    (asyncpg.ReadOnlySQLTransactionError, "is read-only: name the primary in storage.database, not a standby"),
    (asyncpg.TooManyConnectionsError, "has no connection left: raise max_connections"),
    (asyncpg.CannotConnectNowError, "is starting or stopping: wait, or look at its log"),
    (asyncpg.DiskFullError, "has no room: free some space on its disk"),
)
_SILENT: Final = "does not answer: start it, or correct the address in storage.database"
_REFUSED: Final = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)


def explain(error: BaseException, url: str) -> DatabaseError:
    """The same error in the operator's words; ``url`` is the one that was configured."""
    cause = _cause(error)
    if url.startswith("sqlite:"):
        return _explain_sqlite(cause, f"SQLite database {url.removeprefix('sqlite:///')}")
    return _explain_postgresql(error, cause, _place(url))


def _explain_sqlite(cause: BaseException, where: str) -> DatabaseError:
    if isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.IntegrityError):
        message = str(cause).lower()
        for part, remedy in _SQLITE.items():
            if part in message:
                return DatabaseError(f"{where} {remedy}")
    if isinstance(cause, sqlite3.IntegrityError | sqlite3.DataError | UnicodeError | OverflowError):
        return RecordRefused(f"{where} refuses a record ({type(cause).__name__})")
    if isinstance(cause, TimeoutError):
        return DatabaseError(f"{where} is too slow: look at its disk, and at who else uses it")
    if isinstance(cause, OSError):
        return DatabaseError(f"{where} cannot be made or opened ({cause.strerror}): correct storage.database")
    return DatabaseError(f"{where} fails ({type(cause).__name__})")


def _explain_postgresql(error: BaseException, cause: BaseException, where: str) -> DatabaseError:
    for kind, remedy in _POSTGRESQL:
        if isinstance(cause, kind):
            return DatabaseError(f"{where} {remedy}")
    if isinstance(cause, _REFUSED) or isinstance(error, exc.DataError | exc.IntegrityError):
        return RecordRefused(f"{where} refuses a record ({type(cause).__name__})")
    if isinstance(cause, OSError | asyncpg.PostgresConnectionError | asyncpg.InterfaceError):
        return DatabaseError(f"{where} {_SILENT}")
    if isinstance(cause, asyncpg.OperatorInterventionError):
        return DatabaseError(f"{where} has ended the connection: wait, or look at its log")
    if isinstance(cause, ValueError | CommandError):
        return DatabaseError(f"{where} cannot be used: correct storage.database")
    return DatabaseError(f"{where} fails ({type(cause).__name__})")


def _cause(error: BaseException) -> BaseException:
    """The driver's own error below SQLAlchemy's."""
    if isinstance(error, exc.StatementError) and error.orig is not None:
        error = error.orig
    while isinstance(error.__cause__, asyncpg.PostgresError | asyncpg.InterfaceError | OSError | sqlite3.Error):
        error = error.__cause__
    return error


def _place(url: str) -> str:
    """``PostgreSQL at HOST:PORT/NAME`` as user, without the password."""
    try:
        parts = urlsplit(url)
        return f"PostgreSQL at {parts.hostname or 'localhost'}:{parts.port or 5432}, database {parts.path[1:]!r},"
    except ValueError:
        return "PostgreSQL"
