"""Who changed what on the hub: the table `audit`, written in the transaction of the change."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert

from fleet.store.tables import audit


def note(
    connection: Connection,
    actor: str,
    action: str,
    target: str = "",
    detail: Mapping[str, Any] | None = None,
    at: float | None = None,
    outcome: str = "done",
) -> None:
    """Add a line. `detail` holds no password, key or name of a person that was seen."""
    moment = time.time() if at is None else at
    line = {"at": moment, "actor": actor, "action": action, "target": target, "outcome": outcome, "detail": dict(detail or {})}
    connection.execute(insert(audit).values(line))
