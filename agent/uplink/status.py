"""How the uplink is doing, for the page, telemetry and `almena doctor`."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from agent.uplink.trouble import Trouble


@dataclass
class UplinkStatus:
    """Written by the uplink's threads, read by anyone; `state` is the truth about the connection.

    `off`: no broker configured. `refused`: the broker said no. `waiting`: unreachable or lost; both are tried again for ever.
    Counts are since the start of the process.
    """

    delivery: Literal["hub", "broker", "none"] = "none"
    broker: str = ""
    state: Literal["off", "connecting", "connected", "refused", "waiting"] = "off"
    protocol: str = ""
    session: str = ""
    trouble: Trouble | None = None
    since: float = field(default_factory=time.time)
    """When it became connected, or was so no longer: Unix time."""
    last_trouble: Trouble | None = None
    """The last one with the broker, also after it is over, and when it was."""
    last_trouble_at: float | None = None
    connects: int = 0
    in_flight: int = 0
    published: int = 0
    """QoS 1 publishes of rows, repeats included."""
    settled: int = 0
    refused: int = 0
    """Answers "no" to a row, repeats included."""
    dead_letters: int = 0
    no_subscribers: bool = False
    """The broker's last answer was that nobody has subscribed (reason code 0x10): it drops what it accepts."""
    hub: str = ""
    """The hub's retained state; empty when it never said anything."""
    row_trouble: str = ""
    """Why rows are refused, while they are."""
    page_trouble: str = ""
    """Why there is no page, or nobody is told where, while that is so."""
    identity_trouble: str = ""
    """Why the certificate is not renewed, while it should be."""
    door_trouble: str = ""
    """Why pictures do not reach the hub, while that is so."""
    pictures_waiting: int = 0
    pictures_lost: int = 0
    """Of events, for the hub's door."""
    sharing_trouble: str = ""
    """Why identities are not shared, while they should be."""
    sharing_waiting: int = 0
    """Of identities: how many could not be sealed for another device, or fetched, yet."""
    sharing_declined: list[str] = field(default_factory=list)
    """Why identities of other devices are not taken, each reason once."""
    watched: list[dict[str, Any]] = field(default_factory=list)
    """Live pictures that somebody at the hub looks at: `stream`, and `since` when (Unix time)."""
    certificate_ends_at: float | None = None
    """When the client certificate ends that the broker has accepted: Unix time."""

    @property
    def connected(self) -> bool:
        """Whether the broker has accepted this session and it lives."""
        return self.state == "connected"

    def become(self, state: Literal["connecting", "connected", "refused", "waiting"], trouble: Trouble | None = None) -> None:
        """From now on."""
        if (state == "connected") != self.connected:
            self.since = time.time()
        if trouble:
            self.last_trouble, self.last_trouble_at = trouble, time.time()
        self.state, self.trouble = state, trouble

    @property
    def text(self) -> str:
        """One sentence for people."""
        if self.state == "off":
            notes = ["No broker is configured; results stay on this device."]
        elif self.state == "connected":
            notes = [f"Connected to {self.broker} (MQTT {self.protocol})."]
            if self.no_subscribers:
                notes.append("Nobody has subscribed to these topics: the broker drops what it accepts.")
            if self.delivery == "hub" and self.hub != "online":
                notes.append("The hub is not online; events wait on this device.")
        else:
            notes = [f"{self.broker}: {self.trouble}." if self.trouble else f"Connecting to {self.broker} …"]
        if self.identity_trouble:
            notes.append(f"{self.identity_trouble[0].upper()}{self.identity_trouble[1:]}.")
        if self.door_trouble:
            notes.append(f"Pictures do not reach the hub: {self.door_trouble}.")
        if self.pictures_lost:
            notes.append(f"{self.pictures_lost} picture(s) of events are lost.")
        if self.sharing_trouble:
            notes.append(f"Identities are not shared: {self.sharing_trouble}.")
        if self.sharing_waiting:
            notes.append(f"{self.sharing_waiting} shared identities wait to be sealed or fetched.")
        if self.sharing_declined:
            notes.append(f"Identities of other devices are not taken: {'; '.join(self.sharing_declined)}.")
        if self.page_trouble:
            notes.append(f"{self.page_trouble[0].upper()}{self.page_trouble[1:]}.")
        if self.row_trouble:
            notes.append(f"Some messages are refused: {self.row_trouble}.")
        return " ".join(notes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**dataclasses.asdict(self), "connected": self.connected, "text": self.text}
