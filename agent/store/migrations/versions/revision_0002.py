"""When each part of what is kept of a call is deleted, and where purges look for it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = ("delete_audio_at", "delete_text_at", "delete_record_at")


def upgrade() -> None:
    """Add the columns; what was stored before stays for ever."""
    for name in _COLUMNS:
        op.add_column("calls", sa.Column(name, sa.DateTime(timezone=True), nullable=True))
        op.create_index(f"ix_calls_{name}", "calls", [name])
    op.create_index("ix_calls_called", "calls", ["called"])


def downgrade() -> None:
    """Forget when things are due."""
    op.drop_index("ix_calls_called", "calls")
    with op.batch_alter_table("calls") as table:
        for name in _COLUMNS:
            table.drop_index(f"ix_calls_{name}")
            table.drop_column(name)
