"""Identities that the devices of a site share."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Double, String, Text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add their tables."""
    op.create_table(
        "sharing_sites",
        Column("site", Text, primary_key=True),
        Column("by", Text, nullable=False),
        Column("at", Double(), nullable=False),
    )
    op.create_table(
        "sharing_keys",
        Column("device", String(64), primary_key=True),
        Column("key", Text, nullable=False),
        Column("at", Double(), nullable=False),
    )
    op.create_table(
        "identities",
        Column("id", String(64), primary_key=True),
        Column("origin", String(64), nullable=False),
        Column("site", Text, nullable=False),
        Column("name", Text, nullable=False, server_default=""),
        Column("consent", Text, nullable=False, server_default=""),
        Column("expires_at", Double()),
        Column("revision", BigInteger, nullable=False),
        Column("pictures", BigInteger, nullable=False, server_default="0"),
        Column("at", Double(), nullable=False),
        Column("erase_at", Double()),
        Column("erase_by", Text, nullable=False, server_default=""),
    )
    for name in ("origin", "site", "expires_at"):
        op.create_index(f"identities_{name}", "identities", [name])
    op.create_table(
        "identity_copies",
        Column("device", String(64), primary_key=True),
        Column("identity", String(64), primary_key=True),
        Column("box", Text),
        Column("box_revision", BigInteger),
        Column("box_at", Double()),
        Column("revision", BigInteger),
        Column("declined", Text, nullable=False, server_default=""),
        Column("receipt", Text),
        Column("receipt_at", Double()),
    )
    op.create_index("identity_copies_identity", "identity_copies", ["identity"])
