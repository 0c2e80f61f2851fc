"""What the hub knows, in SQLite or PostgreSQL."""

from fleet.store.batch import Batch, Message
from fleet.store.store import Store

__all__ = ["Batch", "Message", "Store"]
