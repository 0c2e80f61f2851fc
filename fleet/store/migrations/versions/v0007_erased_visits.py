"""Visits of persons who are erased."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Double, String, Text

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add their table."""
    op.create_table(
        "erased_visits",
        Column("device", String(64), primary_key=True),
        Column("track", Text, primary_key=True),
        Column("at", Double(), nullable=False),
    )
    op.create_index("erased_visits_at", "erased_visits", ["at"])
