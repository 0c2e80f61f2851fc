"""One simulated device: the outbox, sender and session of the real uplink, and something that goes wrong."""

from __future__ import annotations

import logging
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from paho.mqtt.properties import Properties
from pydantic import ValidationError

from agent import __version__, wire
from agent.backoff import Backoff
from agent.datatypes import Event
from agent.errors import UsageError
from agent.outbox import Outbox, OutboxError
from agent.outbox.store import Store
from agent.settings import DAY, LaneSettings, OutboxSettings
from agent.uplink.app import MISSED_PERIODS, PACE
from agent.uplink.clock_watch import ClockWatch
from agent.uplink.commands import Commands
from agent.uplink.journal import Journal
from agent.uplink.sender import Sender
from agent.uplink.session import Link, Session, Status
from agent.uplink.status import UplinkStatus
from fleet.simulate import figures
from fleet.simulate.clock import DeviceClock
from fleet.simulate.desired import SimulatedSettings
from fleet.simulate.journal import Produced
from fleet.simulate.network import Cable, SharedLoop
from fleet.simulate.scenario import Fault, Scenario

log = logging.getLogger(__name__)

SUBSCRIPTIONS = ("ack", "desired", "command", "hub-state")
AT_ONCE = 100
SLEEP_S = 10.0
HISTORY_BYTES = 65_536


@dataclass(frozen=True)
class Shared:
    """What the devices of a process have in common. `submit` gets what the hub asks of a device; what takes long ends once `stopping`."""

    produced: Produced
    journal: Journal
    network: SharedLoop
    submit: Callable[[Device, str, bytes], None]
    stopping: Callable[[], bool]


class DoublingLink(Link):
    """Sends some rows twice."""

    def __init__(self, link: Link, share: Callable[[], float]) -> None:
        self.inner = link
        self._share = share
        self.protocol, self.receive_maximum, self.maximum_packet = link.protocol, link.receive_maximum, link.maximum_packet

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, properties: Properties | None = None) -> int:
        """See Link."""
        if random.random() < self._share():
            self.inner.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        return self.inner.publish(topic, payload, qos=qos, retain=retain, properties=properties)


class OwnOutbox(Outbox):
    """Nobody else writes here, so that nobody needs to look into the files five times a second."""

    def __init__(self, stores: Sequence[Store]) -> None:
        super().__init__(stores)
        self._appended = threading.Event()
        self._ending = False

    def append(self, lane: str, events: Sequence[Event], *, kept: bool = False) -> list[int]:
        """See Outbox."""
        numbers = super().append(lane, events, kept=kept)
        self._appended.set()
        return numbers

    def wait(self, timeout: float) -> bool:
        """See Outbox; whatever the `timeout`, it sleeps for longer."""
        fresh = self._appended.wait(max(timeout, SLEEP_S))
        if not self._ending:
            self._appended.clear()
        return fresh

    def release(self) -> None:
        """End what waits, and let nobody wait any more."""
        self._ending = True
        self._appended.set()


class Device:
    """What the hub asks for is carried out by `commands`, in a thread that many devices share.

    What changes the device (`tick`, `observe`, `measure`, `begin`) is called from one thread.
    """

    def __init__(self, name: str, scenario: Scenario, shared: Shared) -> None:
        self.name = name
        self.scenario = scenario
        self.status = UplinkStatus()
        self.clock = DeviceClock(name)
        folder = scenario.state_dir / name
        self.outbox = OwnOutbox.open(folder / "outbox", name, _outbox_settings(scenario), self.clock)
        self._produced = shared.produced
        self._faults: dict[str, tuple[float, Fault]] = {}
        self._chance = random.Random(f"{scenario.seed}/{name}")
        self._clock_watch = ClockWatch(self.outbox, self.clock)
        self._connect = Backoff(PACE.connect.base_s / scenario.haste, PACE.connect.cap_s / scenario.haste)
        again = Backoff(PACE.again.base_s / scenario.haste, PACE.again.cap_s / scenario.haste)
        on_message = partial(shared.submit, self)
        answer_s = PACE.hub_answers_within_s
        self.sender = Sender(self.outbox, name, scenario.mqtt.delivery, scenario.mqtt.inflight, self.status, on_message, again, answer_s)
        handlers, settings = self._handlers(), SimulatedSettings()
        self.commands = Commands(name, folder, self.outbox, self._publish, handlers, self._reported, settings, shared.journal)
        self._wanted: queue.SimpleQueue[Fault | None] = queue.SimpleQueue()
        self._submit, self._stopping, self._cable = shared.submit, shared.stopping, Cable(shared.network)
        self._session: Session | None = None
        self._link: DoublingLink | None = None

    def start(self) -> None:
        """Repeat what a kill may have cut off, and connect."""
        first, last = self._produced.last.get(self.name, (1, 0))
        self._hand_over(first, last)
        self.sender.start()
        self._go_online()

    def stop(self) -> None:
        """Say goodbye and close everything."""
        if self._session is not None:
            self._session.stop()
        self.outbox.release()
        self.sender.stop()
        self.outbox.close()

    @property
    def produced(self) -> int:
        """Events that were handed to the outbox, ever."""
        return self._produced.last.get(self.name, (0, 0))[1]

    def begin(self, fault: Fault) -> None:
        """Misbehave from now on."""
        if fault.fault == "storm":
            self._storm(fault.count)
        elif fault.fault == "reconnect":
            if self._session is not None:
                self._session.reconnect()
        else:
            self._faults[fault.fault] = (time.monotonic() + fault.for_s, fault)
            if fault.fault == "offline":
                self._go_offline()
            elif fault.fault == "off":
                self._cable.pull()
                if self._link is not None:
                    self.sender.down(self._link)
            elif fault.fault == "clock":
                self.clock.off_s = -time.time() if fault.by_s is None else fault.by_s
            elif fault.fault == "frozen":
                self._tell("frozen", "STREAM_FROZEN")

    def tick(self) -> None:
        """Do what was commanded, and be well again where a fault is over; call it every second or so."""
        while not self._wanted.empty():
            wanted = self._wanted.get()
            if wanted is None:
                self._faults = {name: (0.0, fault) for name, (_, fault) in self._faults.items()}
            else:
                self.begin(wanted)
        for name, (until, _) in list(self._faults.items()):
            if time.monotonic() >= until:
                del self._faults[name]
                self._end(name)
        self._clock_watch.look()

    def observe(self) -> None:
        """See a face."""
        if "off" not in self._faults:
            self._hand_over(self.produced + 1, self.produced + 1)

    def measure(self) -> None:
        """A sample of telemetry."""
        if "off" in self._faults:
            return
        now, share = self.clock.wall(), 0.1 if "slow" in self._faults else 1.0
        sample = {
            "at": now,
            "period_s": self.scenario.telemetry_s,
            "system": figures.system(self._chance, hot="hot" in self._faults),
            "vision": figures.vision(self._chance, now, share=share, frozen="frozen" in self._faults),
            "outbox": self.outbox.stats(),
            "mqtt": self.status.as_dict(),
            "missing": {},
        }
        self.outbox.append("telemetry", [Event("", "telemetry", {"samples": [sample]}, now, self.clock.mono_ns())])

    def up(self, link: Link) -> None:
        """See session.Listener."""
        self._link = DoublingLink(link, lambda: self._share("duplicates"))
        self.sender.up(self._link)
        self._submit(self, "", b"")

    def down(self, link: Link) -> None:
        """See session.Listener."""
        if self._link is not None and self._link.inner is link:
            self.sender.down(self._link)

    def acknowledged(self, link: Link, mid: int, reason: int) -> None:
        """See session.Listener."""
        if self._link is not None and self._link.inner is link:
            self.sender.acknowledged(self._link, mid, reason)

    def received(self, topic: str, payload: bytes) -> None:
        """See session.Listener."""
        self.sender.received(topic, payload)

    def _go_online(self) -> None:
        subscriptions = [wire.TOPICS[name].filter(self.name) for name in SUBSCRIPTIONS]
        mqtt, status = self.scenario.mqtt, self._status
        self._session = Session(mqtt, self.name, self.status, self, status, subscriptions, self._connect, network=self._cable)
        self._session.start()

    def _go_offline(self) -> None:
        if self._session is not None:
            self._session.stop(0.0, goodbye=False)
            self._session = None
            self.status.state = "waiting"

    def _end(self, fault: str) -> None:
        if fault == "offline" and self._session is None:
            self._go_online()
        elif fault == "off" and self._session is not None:
            self._cable.plug_in()
            self._session.reconnect()
        elif fault == "clock":
            self.clock.off_s = None
        elif fault == "frozen":
            self._tell("running", "")

    def _share(self, fault: str) -> float:
        found = self._faults.get(fault)
        return found[1].share if found else 0.0

    def _storm(self, count: int) -> None:
        first, last = self.produced + 1, self.produced + count
        for start in range(first, last + 1, AT_ONCE):
            if self._stopping():
                break
            self._hand_over(start, min(last, start + AT_ONCE - 1))

    def _hand_over(self, first: int, last: int) -> None:
        """Faces numbered `first` to `last`."""
        unfit, seed = self._share("gaps"), self.scenario.seed
        numbers = range(first, last + 1)
        self._append([figures.face(self.name, seed, number, self.clock, unfit=self._chance.random() < unfit) for number in numbers])

    def _tell(self, state: str, code: str) -> None:
        """The state of the stream."""
        self._append([figures.stream(self.produced + 1, state, code, self.clock)])

    def _append(self, events: Sequence[Event]) -> None:
        """Note their numbers, and hand them over."""
        if not events:
            return
        self._produced.about_to(self.name, events[0].data["n"], events[-1].data["n"])
        try:
            self.outbox.append("event", events)
        except OutboxError as error:
            log.error("%s: %s", self.name, error)

    def _status(self) -> Status:
        session = secrets.token_hex(8)
        self.status.session = session
        lease_s = MISSED_PERIODS * self.scenario.telemetry_s
        birth = wire.Birth(
            state="online", session=session, boot_id=self.clock.boot_id, agent=__version__, models=figures.MODELS, lease_s=lease_s
        )
        return Status.of(self.name, birth)

    def _publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, properties: Properties | None = None) -> bool:
        session = self._session
        return session is not None and session.publish(topic, payload, qos=qos, retain=retain, properties=properties)

    def _reported(self) -> dict[str, Any]:
        streams = {figures.STREAM: ["faces"]}
        site = self.name.rpartition("-")[0]
        return {"agent": __version__, "settings": "", "streams": streams, "engines": figures.ENGINES, "simulated": True, "site": site}

    def _handlers(self) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
        return {
            "rebirth": lambda _: self._rebirth(),
            "status": lambda _: {"uplink": self.status.as_dict(), "faults": sorted(self._faults), "at": self.clock.wall()},
            "misbehave": self._misbehave,
            "behave": lambda _: self._wanted.put(None),
        }

    def _rebirth(self) -> None:
        if self._session is not None:
            self._session.announce()
        self.commands.handle("", b"")

    def _misbehave(self, arguments: Mapping[str, Any]) -> None:
        """Raises UsageError."""
        try:
            fault = Fault.model_validate(dict(arguments))
        except ValidationError as error:
            reasons = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False))
            raise UsageError(f"args: {reasons}") from None
        self._wanted.put(fault)


def _outbox_settings(scenario: Scenario) -> OutboxSettings:
    """Little history: nobody reads it here."""
    return OutboxSettings(event=LaneSettings(max_bytes=scenario.event_bytes), history_bytes=HISTORY_BYTES, history_age_s=DAY)
