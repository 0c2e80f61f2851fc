"""An index of the alerts that fire."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Add it."""
    where = text("state = 'firing'")
    op.create_index("alerts_firing", "alerts", ["device"], sqlite_where=where, postgresql_where=where)
