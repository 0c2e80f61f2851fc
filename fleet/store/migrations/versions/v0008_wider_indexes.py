"""Indexes of events hold whatever else may be asked for, so that rows that do not match are not read; and one for what is too old."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

WIDER = {
    "events_device": ["device", "at", "id", "stream", "subject"],
    "events_kind": ["kind", "at", "id"],
    "events_subject": ["subject", "at", "id", "device", "stream", "kind"],
    "events_stream": ["stream", "at", "id", "device"],
    "events_device_kind": ["device", "kind", "at", "id", "stream", "subject"],
    "events_stream_kind": ["stream", "kind", "at", "id", "device"],
}


def upgrade() -> None:
    """Make them anew, and one more."""
    for name, columns in WIDER.items():
        op.drop_index(name, "events")
        op.create_index(name, "events", columns)
    op.create_index("events_received", "events", ["received_at"])
