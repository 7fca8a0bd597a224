"""The database's schema as it is after the last migration, and how records become rows. Pure."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Dialect

from agent.store.call_record import FILES, CallRecord


class UtcDateTime(sa.TypeDecorator[datetime]):
    """A moment in UTC; SQLite, which knows no zones, stores it without one."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To the database; a time without a zone is taken for UTC, whatever this machine's zone is."""
        if value is None:
            return None
        moment = value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """From the database."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata: Final = sa.MetaData(
    naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(column_0_name)s"}
)
_JSON: Final = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")

calls: Final = sa.Table(
    "calls",
    metadata,
    sa.Column("id", sa.Text(), primary_key=True),
    sa.Column("direction", sa.Text(), nullable=False),
    sa.Column("caller", sa.Text(), nullable=False, index=True),
    sa.Column("caller_uri", sa.Text(), nullable=False),
    sa.Column("called", sa.Text(), nullable=False, index=True),
    sa.Column("trunk", sa.Text()),
    sa.Column("source", sa.Text(), nullable=False),
    sa.Column("sip_call_id", sa.Text(), nullable=False),
    sa.Column("agent", sa.Text(), nullable=False, index=True),
    sa.Column("model", sa.Text(), nullable=False),
    sa.Column("language", sa.Text(), nullable=False),
    sa.Column("generation", sa.BigInteger(), nullable=False),
    sa.Column("seed", sa.BigInteger()),
    sa.Column("started_at", UtcDateTime(), nullable=False, index=True),
    sa.Column("answered_at", UtcDateTime()),
    sa.Column("ended_at", UtcDateTime()),
    sa.Column("result", sa.Text()),
    sa.Column("reason", sa.Text(), nullable=False),
    sa.Column("sip_status", sa.Integer()),
    sa.Column("codec", sa.Text()),
    sa.Column("rtp", _JSON, nullable=False),
    sa.Column("conversation", _JSON, nullable=False),
    sa.Column("actions", _JSON, nullable=False),
    sa.Column("variables", _JSON, nullable=False),
    sa.Column("files", _JSON, nullable=False),
    sa.Column("delete_audio_at", UtcDateTime(), index=True),
    sa.Column("delete_text_at", UtcDateTime(), index=True),
    sa.Column("delete_record_at", UtcDateTime(), index=True),
)


def to_row(record: CallRecord) -> dict[str, Any]:
    """The row of a record."""
    values = {name: getattr(record, name) for name in type(record).model_fields if name not in FILES}
    return values | {"files": record.files}


def from_row(row: Mapping[str, Any]) -> CallRecord:
    """The record of a row."""
    values = dict(row)
    return CallRecord(**values.pop("files"), **values)
