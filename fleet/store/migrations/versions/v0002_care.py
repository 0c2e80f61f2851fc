"""Maintenance, devices that were removed, and a device's engines."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, BigInteger, Column, Double, Integer, String, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add them."""
    op.add_column("devices", Column("engines", JSON))
    op.create_table(
        "maintenance",
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("kind", String(64), nullable=False),
        Column("name", Text, nullable=False),
        Column("begins", Double(), nullable=False),
        Column("ends", Double(), nullable=False),
        Column("reason", Text, nullable=False, server_default=""),
        Column("by", Text, nullable=False),
    )
    op.create_index("maintenance_ends", "maintenance", ["ends"])
    op.create_table("removed", Column("device", String(64), primary_key=True), Column("at", Double(), nullable=False))
