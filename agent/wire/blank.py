"""Taking a person out of what was said about them."""

from __future__ import annotations

import json
from typing import Any


def blanked(payload: bytes, identity: str) -> bytes | None:
    """An envelope in which every object of its data that names `identity` has lost that and its name; None if there is none."""
    if json.dumps(identity, ensure_ascii=False).encode() not in payload:
        return None
    envelope = json.loads(payload)
    if not _blank(envelope["data"], identity):
        return None
    return json.dumps(envelope, separators=(",", ":"), ensure_ascii=False).encode()


def _blank(value: Any, identity: str) -> bool:
    """Take the identity and its name out of every object that names it; True if there was one."""
    if isinstance(value, list):
        return sum(_blank(part, identity) for part in value) > 0
    if not isinstance(value, dict):
        return False
    hit = value.get("identity") == identity
    if hit:
        value.update({name: None for name in ("identity", "name") if name in value})
    return sum(_blank(part, identity) for part in value.values()) + hit > 0
