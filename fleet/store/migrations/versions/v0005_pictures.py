"""Pictures that devices send."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Double, LargeBinary, String, Text

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add their table."""
    op.create_table(
        "pictures",
        Column("device", String(64), primary_key=True),
        Column("spool", String(64), primary_key=True),
        Column("seq", BigInteger, primary_key=True, autoincrement=False),
        Column("stream", String(64), nullable=False),
        Column("track", Text, nullable=False, server_default=""),
        Column("at", Double(), nullable=False),
        Column("received_at", Double(), nullable=False),
        Column("size", BigInteger, nullable=False),
        Column("jpeg", LargeBinary, nullable=False),
    )
    op.create_index("pictures_received_at", "pictures", ["received_at"])
    op.create_index("pictures_track", "pictures", ["device", "track"])
