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
from typing import TYPE_CHECKING, Any

from agent import __version__, wire
from agent.backoff import Backoff
from agent.clock import Clock
from agent.errors import AlmenaError, SettingsError
from agent.identity.folder import IdentityFolder
from agent.identity.renewal import RENEWAL_PACE, Renewal, RenewalPace
from agent.outbox import Outbox
from agent.remote import Effective, effective
from agent.settings import MqttSettings, Settings
from agent.uplink.actions import Actions, from_vision
from agent.uplink.clock_watch import ClockWatch
from agent.uplink.commands import Commands
from agent.uplink.credentials import Credentials
from agent.uplink.desired import DesiredSettings
from agent.uplink.hub_link import HubLink
from agent.uplink.live import LiveDetections
from agent.uplink.local import LocalOnly
from agent.uplink.sender import Sender
from agent.uplink.session import Link, Session, Status
from agent.uplink.status import UplinkStatus
from agent.uplink.trial import PATIENCE, Patience
from agent.uplink.vision_link import VisionLink
from agent.uplink.word import Teller
from engines.files import replacing

if TYPE_CHECKING:
    from pathlib import Path

    from agent.http.site import PageServer
    from agent.uplink.telemetry import TelemetryLoop

log = logging.getLogger(__name__)

MISSED_PERIODS = 3
STUCK_AFTER_S = 30.0
STORES_WITHIN_S = 600.0
"""So long storing may fail for another reason than a disk that is full or read-only: longer than the longest wait for another try."""
PAGE_AGAIN_S = 10.0


@dataclass(frozen=True)
class Pace:
    """How long to wait before trying again: to connect, and to send a row whose acknowledgement has not come in time."""

    connect: Backoff
    again: Backoff
    hub_answers_within_s: float
    renewal: RenewalPace = RENEWAL_PACE
    trial: Patience = PATIENCE


PACE = Pace(connect=Backoff(base_s=1.0, cap_s=60.0), again=Backoff(base_s=2.0, cap_s=300.0), hub_answers_within_s=5.0)


class Uplink:
    """Identity, network, telemetry, commands, page. `start` returns at once; `look` is called about once a second."""

    def __init__(self, config: Path, pace: Pace = PACE) -> None:
        """`config`: the settings file. Raises SettingsError, OutboxError."""
        now = effective(config)
        if now.problem:
            log.error("%s", now.problem)
        self.settings = settings = now.settings
        self._config = config
        self.status = UplinkStatus()
        self.outbox = Outbox.open(settings.outbox_dir, settings.device.name, settings.outbox)
        self._clock = Clock()
        self._clock_watch = ClockWatch(self.outbox, self._clock)
        self._stops = ExitStack()
        self._stops.callback(self.outbox.close)
        self._connection: Connection | None = None
        self._local = LocalOnly(self.outbox)
        self._telemetry: TelemetryLoop | None = None
        self._page: PageServer | None = None
        self._page_due = math.inf
        self._teller = Teller(settings.state_dir, self.status)
        if settings.mqtt is not None and settings.mqtt.delivery != "none":
            self._connection = Connection(config, now, settings.mqtt, self.outbox, self._clock, self.status, pace, self._take)

    def start(self) -> None:
        """Start everything. A page that cannot be served is told and tried again: results go to the broker without it."""
        from agent.uplink.telemetry import TelemetryLoop

        self._telemetry = TelemetryLoop(self.settings, self.outbox, self.status)
        self._telemetry.start()
        self._stops.callback(self._telemetry.stop)
        if self._connection is not None:
            self._connection.start(self._stops)
        else:
            self._local.start()
            self._stops.callback(self._local.stop)
        self._serve()

    def look(self) -> bool:
        """Regular small duties; True while the uplink makes progress."""
        self._clock_watch.look()
        self.outbox.tidy()
        self._teller.look()
        if time.monotonic() >= self._page_due:
            self._serve()
        worker = self._connection.sender if self._connection else self._local
        return worker.alive(STUCK_AFTER_S) and self.outbox.failing_for_s < STORES_WITHIN_S

    def stop(self) -> None:
        """Say goodbye to the broker and end everything."""
        self._stops.close()

    def _sample(self) -> Mapping[str, Any]:
        return self._telemetry.snapshot() if self._telemetry else {}

    def _again(self) -> None:
        """Somebody has had the settings read again."""
        if self._connection is not None:
            self._connection.again()
            return
        try:
            self._take(effective(self._config))
        except SettingsError as error:
            log.error("%s", error)

    def _take(self, now: Effective) -> None:
        """Go by other settings, in what does not take a restart."""
        self.outbox.limit(now.settings.outbox)
        if self._telemetry is not None:
            self._telemetry.every(now.settings.telemetry.period_s)
        if self._connection is not None:
            self._connection.take(now.settings)

    def _serve(self) -> None:
        """Serve the page and write down where, or say why not, and when it is tried again."""
        self._page_due = math.inf
        if not self.settings.web.enabled:
            return
        trouble = self._page_trouble()
        if trouble:
            self._page_due = time.monotonic() + PAGE_AGAIN_S
            if trouble != self.status.page_trouble:
                log.error("%s; this is tried again every %.0f s", trouble, PAGE_AGAIN_S)
        self.status.page_trouble = trouble

    def _page_trouble(self) -> str:
        """Do what is left to do for the page; what hinders it, or nothing."""
        from agent.uplink.web.app import serve
        from agent.uplink.web.context import WebContext

        if self._page is None:
            try:
                self._page = serve(WebContext(self.settings, self.outbox, self.status, self._sample, self._again))
            except AlmenaError as error:
                return f"there is no page: {error}"
            self._stops.callback(self._page.stop)
        address = self.settings.state_dir / "run" / "page.url"
        try:
            with replacing(address, durable=False) as unfinished:
                unfinished.write_text(self._page.url + "\n")
        except OSError as error:
            return f"the page is at {self._page.url}, but that cannot be written to {address}: {error.strerror}"
        return ""


class Connection:
    """Session, sender and commands of a device that has a broker."""

    def __init__(
        self,
        config: Path,
        now: Effective,
        mqtt: MqttSettings,
        outbox: Outbox,
        clock: Clock,
        status: UplinkStatus,
        pace: Pace,
        took: Callable[[Effective], None],
    ) -> None:
        """`took` hears what holds from now on."""
        self._settings = settings = now.settings
        self._mqtt = mqtt
        self._clock = clock
        self._vision = VisionLink(settings.control_socket)
        device = settings.device.name
        self.sender = Sender(outbox, device, mqtt.delivery, mqtt.inflight, status, self._on_message, pace.again, pace.hub_answers_within_s)
        subscriptions = [wire.TOPICS[name].filter(device) for name in ("ack", "desired", "command", "hub-state")]
        folder = IdentityFolder(settings.identity_dir)
        credentials = Credentials(mqtt.tls, folder, device) if settings.identity and mqtt.tls else None
        self._session = Session(mqtt, device, status, self, self._status, subscriptions, pace.connect, credentials)
        self._renewal: Renewal | None = None
        if settings.identity:
            self._renewal = Renewal(settings.identity.url, folder, self._session.reconnect, self._identity_trouble, pace.renewal)
        actions = Actions(self._vision, status, self._announce, self.again)
        self._hub = HubLink(settings.hub, folder, self._vision, outbox, status, settings.state_dir)
        handlers = {**actions.table(), **self._hub.handlers()}
        state_dir, publish = settings.state_dir / "uplink", self._session.publish
        self._desired = DesiredSettings(config, now, outbox, took, self.report, pace.trial)
        self._commands = Commands(device, state_dir, outbox, publish, handlers, self._reported, self._desired)
        self._ask_status = status

    def start(self, stops: ExitStack) -> None:
        """Start the threads, and note how they are ended: the session first, so that it says goodbye."""
        self.sender.start()
        stops.callback(self.sender.stop)
        self._commands.start()
        stops.callback(self._commands.stop)
        self._hub.start(stops)
        self._desired.start()
        stops.callback(self._desired.stop)
        if self._mqtt.live_per_second:
            live = LiveDetections(self._settings, self._mqtt.live_per_second, self._session.publish)
            live.start()
            stops.callback(live.stop)
        self._session.start()
        if self._renewal is not None:
            self._renewal.start()
            stops.callback(self._renewal.stop)
        stops.callback(self._session.stop)

    def report(self) -> None:
        """Publish the reported state soon."""
        self._commands.report()

    def again(self) -> None:
        """The settings file may say something else, and what was refused is tried again."""
        self._desired.again()

    def take(self, settings: Settings) -> None:
        """Go by other settings; what the birth says of them takes a new session."""
        old, self._settings = self._settings, settings
        if (old.telemetry, _models(old)) != (settings.telemetry, _models(settings)):
            self._session.reconnect()

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

    def _identity_trouble(self, text: str) -> None:
        self._ask_status.identity_trouble = text

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
        return Status.of(self._settings.device.name, birth)

    def _announce(self) -> None:
        self._session.announce()
        self._commands.report()

    def _reported(self) -> dict[str, Any]:
        """What runs here: no secret, and of the settings only a digest. The vision process knows what was reloaded."""
        in_force = from_vision(self._vision, "/health").get("in_force") or self._settings.summary()
        shown = {name: in_force[name] for name in ("settings", "streams")}
        allowed = self._settings.hub.model_dump(exclude={"url"}) if self._settings.hub else {}
        return {"agent": __version__, **shown, "hub": allowed, "engines": from_vision(self._vision, "/engines")}


def _models(settings: Settings) -> dict[str, str]:
    """Task to model, as far as the settings name it."""
    found = {}
    for stream in settings.streams:
        for task in stream.tasks:
            for part in ("detector", "embedder", "model"):
                if isinstance(name := getattr(task, part, None), str):
                    found[f"{task.type}.{part}"] = name
    return found
