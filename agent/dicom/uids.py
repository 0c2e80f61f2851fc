"""UIDs of what this agent makes, derived from what they are made of, so that doing it twice makes the same objects."""

from __future__ import annotations

import hashlib
import uuid

TEMPLATE = "2"
"""Version of the report and of the capture. Count it up when either changes, so that old and new ones differ."""
DEVICE = "2.25.160817214735318286416543187923126137165"
"""Device UID of the software, whatever the machine."""


def derived(instance_uid: str, model: str, use: str) -> str:
    """A UID below 2.25 (PS3.5, B.2: a UUID as a whole number) for one `use` of one instance by one model (name@hash)."""
    digest = hashlib.sha256("\n".join((instance_uid, model, TEMPLATE, use)).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"
