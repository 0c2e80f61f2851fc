"""The uplink process: what it is made of.

outbox ─► Sender ─► Session ─► broker          telemetry ─► outbox
             ▲          │                      web page ─► vision process, outbox, status
             └─ acks ◄──┴──► Commands ─► vision process
"""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from agent import __version__, wire
from agent.clock import Clock
from agent.errors import AlmenaError
from agent.outbox import Outbox
from agent.settings import MqttSettings, Settings
from agent.uplink.clock_watch import ClockWatch
from agent.uplink.commands import Commands
from agent.uplink.live import LiveDetections
from agent.uplink.local import LocalOnly
from agent.uplink.sender import Sender
from agent.uplink.session import Backoff, Link, Session, Status
from agent.uplink.status import UplinkStatus
from agent.uplink.vision_link import VisionError, VisionLink

log = logging.getLogger(__name__)

MISSED_PERIODS = 3
STUCK_AFTER_S = 30.0
PAGE_AGAIN_S = 10.0


@dataclass(frozen=True)
class Pace:
    """How long to wait before trying again: to connect, and to send a row whose acknowledgement has not come in time."""

    connect: Backoff
    again: Backoff
    hub_answers_within_s: float


PACE = Pace(connect=Backoff(base_s=1.0, cap_s=60.0), again=Backoff(base_s=2.0, cap_s=300.0), hub_answers_within_s=5.0)


class Uplink:
    """Identity, network, telemetry, commands, page. `start` returns at once; `look` is called about once a second."""

    def __init__(self, settings: Settings, pace: Pace = PACE) -> None:
        self.settings = settings
        self.status = UplinkStatus()
        self.outbox = Outbox.open(settings.outbox_dir, settings.device.name, settings.outbox)
        self._clock = Clock()
        self._clock_watch = ClockWatch(self.outbox, self._clock)
        self._stops = ExitStack()
        self._stops.callback(self.outbox.close)
        self._connection: Connection | None = None
        self._local = LocalOnly(self.outbox)
        self._snapshot: Callable[[], Mapping[str, Any]] = dict
        self._page_due = math.inf
        if settings.mqtt is not None and settings.mqtt.delivery != "none":
            self._connection = Connection(settings, settings.mqtt, self.outbox, self._clock, self.status, pace)

    def start(self) -> None:
        """Start everything. A page that cannot be served is told and tried again: results go to the broker without it."""
        from agent.uplink.telemetry import TelemetryLoop

        telemetry = TelemetryLoop(self.settings, self.outbox, self.status)
        self._snapshot = telemetry.snapshot
        telemetry.start()
        self._stops.callback(telemetry.stop)
        if self._connection is not None:
            self._connection.start(self._stops)
        else:
            self._local.start()
            self._stops.callback(self._local.stop)
        self._serve()

    def look(self) -> bool:
        """Regular small duties; True while the uplink makes progress."""
        self._clock_watch.look()
        if time.monotonic() >= self._page_due:
            self._serve()
        worker = self._connection.sender if self._connection else self._local
        return worker.alive(STUCK_AFTER_S)

    def stop(self) -> None:
        """Say goodbye to the broker and end everything."""
        self._stops.close()

    def _serve(self) -> None:
        """Serve the page, or say why not, and when it is tried again."""
        self._page_due = math.inf
        if not self.settings.web.enabled:
            return
        from agent.uplink.web.app import serve
        from agent.uplink.web.context import WebContext

        try:
            server = serve(WebContext(self.settings, self.outbox, self.status, self._snapshot))
        except AlmenaError as error:
            self._page_due = time.monotonic() + PAGE_AGAIN_S
            if str(error) != self.status.page_trouble:
                log.error("there is no page: %s; this is tried again every %.0f s", error, PAGE_AGAIN_S)
            self.status.page_trouble = str(error)
            return
        self.status.page_trouble = ""
        self._stops.callback(server.stop)
        address = self.settings.state_dir / "run" / "page.url"
        address.parent.mkdir(parents=True, exist_ok=True)
        address.write_text(server.url + "\n")


class Connection:
    """Session, sender and commands of a device that has a broker."""

    def __init__(self, settings: Settings, mqtt: MqttSettings, outbox: Outbox, clock: Clock, status: UplinkStatus, pace: Pace) -> None:
        self._settings = settings
        self._mqtt = mqtt
        self._clock = clock
        self._vision = VisionLink(settings.control_socket)
        device = settings.device.name
        self.sender = Sender(outbox, device, mqtt.delivery, mqtt.inflight, status, self._on_message, pace.again, pace.hub_answers_within_s)
        subscriptions = [wire.TOPICS[name].filter(device) for name in ("ack", "desired", "command", "hub-state")]
        self._session = Session(mqtt, device, status, self, self._status, subscriptions, pace.connect)
        self._commands = Commands(device, settings.state_dir / "uplink", outbox, self._session.publish, self._handlers(), self._reported)
        self._ask_status = status

    def start(self, stops: ExitStack) -> None:
        """Start the threads, and note how they are ended: the session first, so that it says goodbye."""
        self.sender.start()
        stops.callback(self.sender.stop)
        self._commands.start()
        stops.callback(self._commands.stop)
        if self._mqtt.live_per_second:
            live = LiveDetections(self._settings, self._mqtt.live_per_second, self._session.publish)
            live.start()
            stops.callback(live.stop)
        self._session.start()
        stops.callback(self._session.stop)

    def up(self, link: Link) -> None:
        """See session.Listener."""
        self.sender.up(link)
        self._commands.report()

    def down(self, link: Link) -> None:
        """See session.Listener."""
        self.sender.down(link)

    def acknowledged(self, link: Link, mid: int, reason: int) -> None:
        """See session.Listener."""
        self.sender.acknowledged(link, mid, reason)

    def received(self, topic: str, payload: bytes) -> None:
        """See session.Listener."""
        self.sender.received(topic, payload)

    def _on_message(self, topic: str, payload: bytes) -> None:
        self._commands.submit(topic, payload)

    def _status(self) -> Status:
        """Birth, will and goodbye under a new random session id."""
        session = secrets.token_hex(8)
        self._ask_status.session = session
        lease_s = MISSED_PERIODS * self._settings.telemetry.period_s
        birth = wire.Birth(
            state="online", session=session, boot_id=self._clock.boot_id, agent=__version__, models=_models(self._settings), lease_s=lease_s
        )
        stopped = birth.model_copy(update={"state": "stopped"})
        topic = wire.TOPICS["status"].of(self._settings.device.name)
        return Status(topic, wire.encode(birth), wire.encode(stopped), wire.encode(wire.Will(session=session)))

    def _handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
        return {"rebirth": self._rebirth, "reload": self._reload, "status": self._answer_status}

    def _rebirth(self, _arguments: Mapping[str, Any]) -> None:
        self._session.announce()
        self._commands.report()

    def _reload(self, _arguments: Mapping[str, Any]) -> Any:
        """Let the vision process read the settings file again: whether streams were started anew, and what takes a restart."""
        return self._vision.post("/reload")[1]

    def _answer_status(self, _arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"uplink": self._ask_status.as_dict(), "streams": self._from_vision("/streams"), "at": time.time()}

    def _reported(self) -> dict[str, Any]:
        """What runs here: no secret, and of the settings only a digest. The vision process knows what was reloaded."""
        in_force = self._from_vision("/health").get("in_force") or self._settings.summary()
        return {"agent": __version__, **in_force, "engines": self._from_vision("/engines")}

    def _from_vision(self, path: str) -> Any:
        """An answer of the vision process, or why there is none."""
        try:
            return self._vision.get(path)
        except VisionError as error:
            return {"error": str(error)}


def _models(settings: Settings) -> dict[str, str]:
    """Task to model, as far as the settings name it."""
    found = {}
    for stream in settings.streams:
        for task in stream.tasks:
            for part in ("detector", "embedder", "model"):
                if isinstance(name := getattr(task, part, None), str):
                    found[f"{task.type}.{part}"] = name
    return found
