"""The hub's ingest: takes what devices send, stores it exactly once, and acknowledges after the commit.

    broker ─► network thread ─► inbox ─► one batch, one transaction ─► PUBACK to the broker, `down/ack` to the devices

Killed at any moment, it loses nothing: the broker keeps its session and sends again what has no PUBACK, devices send again what has no ack.
"""

from fleet.ingest.ingest import Ingest

__all__ = ["Ingest"]
