"""What the hub's other parts need of its connection to the broker."""

from __future__ import annotations

from typing import Protocol


class Link(Protocol):
    """The ingest's session."""

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted it."""
        ...

    @property
    def trouble(self) -> str:
        """Why the store takes nothing; empty while it does."""
        ...

    @property
    def stored(self) -> int:
        """Messages that were stored or refused, since the start."""
        ...

    @property
    def refused(self) -> int:
        """Messages that were refused, since the start."""
        ...

    @property
    def unheard(self) -> str:
        """What the broker does not let this hub listen to; empty where it lets it."""
        ...

    @property
    def clock_trouble(self) -> str:
        """Why this machine's clock is not believed; empty while it is."""
        ...

    @property
    def certificate_ends(self) -> float | None:
        """When the broker's certificate ends, of a connection with TLS: Unix time."""
        ...

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """At QoS 1; True once the broker has it, False where it is not there or does not answer within a few seconds."""
        ...
