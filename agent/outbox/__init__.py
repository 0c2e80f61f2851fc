"""The durable queue between the two processes: what is appended is settled, declared as lost, or pending; nothing else."""

from agent.outbox.outbox import Outbox
from agent.outbox.rows import LANES, OutboxError, OutboxFullError, Row

__all__ = ["LANES", "Outbox", "OutboxError", "OutboxFullError", "Row"]
