"""All simulated devices, and what happens when.

one thread ─► due: connect, event, sample, fault of the scenario ─► Device ─► its outbox ─► its sender and session
one thread ─► what the hub commands
"""

from __future__ import annotations

import heapq
import itertools
import logging
import queue
import random
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from agent.errors import AlmenaError
from agent.outbox import OutboxError
from agent.settings import MEBIBYTE
from agent.uplink.journal import Journal
from fleet.simulate.device import Device, Shared
from fleet.simulate.journal import Produced
from fleet.simulate.network import SharedLoop
from fleet.simulate.scenario import Scenario, Step

log = logging.getLogger(__name__)

FILES_PER_DEVICE, MORE_FILES = 18, 100
LOOK_S = 1.0
STACK_BYTES = 256 * 1024
"""Of each thread: there are four for each device."""


class TooManyError(AlmenaError):
    """The system allows too few open files."""


class Crowd:
    """Starts in `run`, and ends when `stop` is called or the scenario's time is over."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._chance = random.Random(scenario.seed)
        self._stopping = threading.Event()
        self._due: list[tuple[float, int, Callable[[], float | None]]] = []
        self._order = itertools.count()
        self._asked: queue.SimpleQueue[tuple[Device, str, bytes] | None] = queue.SimpleQueue()
        self._devices: dict[str, Device] = {}
        self._process = psutil.Process()
        self._began = self._spent = 0.0
        self._bare = self._most = 0

    def run(self, tell: Callable[[str], None], tell_every_s: float) -> dict[str, Any]:
        """Until the end; returns what was produced, by device, and what it took. Raises AlmenaError."""
        _allow_files(FILES_PER_DEVICE * len(self._scenario.names()) + MORE_FILES)
        threading.stack_size(STACK_BYTES)
        network = SharedLoop()
        produced, journal = Produced(self._scenario.state_dir), Journal(Path(":memory:"))
        shared = Shared(produced, journal, network, lambda *asked: self._asked.put(asked), self._stopping.is_set)
        network.start()
        asked = threading.Thread(target=self._carry_out, name="commands", daemon=True)
        asked.start()
        self._began, self._spent, self._bare = time.monotonic(), _processor_s(), self._memory()
        try:
            joins = {name: number / self._scenario.start_per_second for number, name in enumerate(self._scenario.names())}
            for name, in_s in joins.items():
                self._at(in_s, partial(self._join, name, shared))
            for step in self._scenario.faults:
                self._at(max(step.at_s, *(joins[name] for name in step.devices or joins)), partial(self._begin, step))
            self._at(tell_every_s, partial(self._say, tell, tell_every_s))
            self._drive()
        finally:
            self._stopping.set()
            with ThreadPoolExecutor(max(1, len(self._devices))) as pool:  # each waits for seconds where the broker is silent
                for ended in [pool.submit(device.stop) for device in self._devices.values()]:
                    ended.result()
            self._asked.put(None)
            asked.join()
            network.stop()
            produced.close()
            journal.close()
        return self._report()

    def stop(self) -> None:
        """From any thread."""
        self._stopping.set()

    def _drive(self) -> None:
        """Do what is due, until the end; what says in how many seconds it wants to be done again is."""
        end = self._began + (self._scenario.run_s or float("inf"))
        while not self._stopping.is_set() and (now := time.monotonic()) < end:
            if self._due and self._due[0][0] <= now:
                due, _, work = heapq.heappop(self._due)
                again_s = work()
                if again_s is not None:
                    self._at(max(due + again_s - now, 0.0), work)
            else:
                next_due = self._due[0][0] if self._due else end
                self._stopping.wait(min(next_due, end, now + LOOK_S) - now)

    def _at(self, in_s: float, work: Callable[[], float | None]) -> None:
        heapq.heappush(self._due, (time.monotonic() + in_s, next(self._order), work))

    def _join(self, name: str, shared: Shared) -> None:
        device = Device(name, self._scenario, shared)
        self._devices[name] = device
        device.start()
        self._at(self._chance.uniform(0, self._scenario.telemetry_s), partial(self._measure, device))
        self._at(self._chance.uniform(0, LOOK_S), partial(self._tick, device))
        if self._scenario.events_per_minute:
            self._at(self._pause(), partial(self._observe, device))

    def _tick(self, device: Device) -> float:
        device.tick()
        return LOOK_S

    def _measure(self, device: Device) -> float:
        try:
            device.measure()
        except OutboxError as error:
            log.error("%s: %s", device.name, error)
        return self._scenario.telemetry_s

    def _observe(self, device: Device) -> float:
        device.observe()
        return self._pause()

    def _pause(self) -> float:
        """Until a device's next event, as of a Poisson process."""
        return self._chance.expovariate(self._scenario.events_per_minute / 60)

    def _begin(self, step: Step) -> float | None:
        for name in step.devices or self._devices:
            self._devices[name].begin(step)
        return step.every_s

    def _say(self, tell: Callable[[str], None], every_s: float) -> float:
        lanes = [device.outbox.stats() for device in self._devices.values()]
        connected = sum(device.status.connected for device in self._devices.values())
        produced, lost, pending = (sum(books["event"][name] for books in lanes) for name in ("produced", "lost", "pending"))
        tell(
            f"{connected} of {len(self._devices)} devices connected; events: {produced} produced, {lost} lost, {pending} pending; "
            f"{100 * (_processor_s() - self._spent) / (time.monotonic() - self._began):.0f} % of a core, "
            f"{self._memory() / MEBIBYTE:.0f} MB, {threading.active_count()} threads"
        )
        return every_s

    def _carry_out(self) -> None:
        """What the hub asks of the devices, one after another."""
        while (asked := self._asked.get()) is not None and not self._stopping.is_set():
            device, topic, payload = asked
            try:
                device.commands.handle(topic, payload)
            except Exception:  # a supervisor: no message may end the thread of all devices
                log.exception("%s: a message from the hub could not be handled", device.name)

    def _memory(self) -> int:
        """Resident bytes."""
        now: int = self._process.memory_info().rss
        self._most = max(self._most, now)
        return now

    def _report(self) -> dict[str, Any]:
        """`produced` is what was handed over, by the file that stands beside the outboxes; the rest are the process's figures."""
        self._memory()
        devices = {name: {"produced": device.produced, "connects": device.status.connects} for name, device in self._devices.items()}
        seconds = time.monotonic() - self._began
        return {
            "devices": devices,
            "produced": sum(one["produced"] for one in devices.values()),
            "seconds": round(seconds, 1),
            "processor_s": round(_processor_s() - self._spent, 1),
            "processor_percent": round(100 * (_processor_s() - self._spent) / seconds, 1),
            "memory_mb": round(self._most / MEBIBYTE, 1),
            "memory_mb_per_device": round((self._most - self._bare) / MEBIBYTE / max(1, len(devices)), 2),
        }


def _processor_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _allow_files(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise TooManyError(
            f"these devices need {wanted} open files, and {hard} are allowed: simulate fewer, or `ulimit -Hn {wanted}` as root"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
