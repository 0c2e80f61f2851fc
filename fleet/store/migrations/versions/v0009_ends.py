"""Where each spool of an outbox ends, so that what is missing between two of them is seen; and what was given up.

Of what is stored already no device has told to which outbox it belongs: it stays as it is.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns."""
    for name in ("low", "high", "ends"):
        op.add_column("spools", Column(name, BigInteger))
    op.add_column("spools", Column("outbox", Text, nullable=False, server_default=""))
    op.add_column("spools", Column("given_up", Text, nullable=False, server_default="[]"))
    op.create_index("spools_line", "spools", ["device", "lane", "outbox"])
