"""Broker, hub and a whole agent for a folder of photographs, each a process that can be killed; what is stored is read by SQL alone, and
heard by an observer that shares no code with them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.agent_process import AgentProcess
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.observer import Observer
from tests.fakes.turned_clock import TurnedClock
from tests.waiting import wait_until

AGENT = ("vision", "uplink")
DEVICE = "kill-test"


class Site:
    """Broker, hub and one agent, each a process of its own that can be killed and started again.

    `clock` is what the agent lives by instead of the machine's; `more` are further sections of its settings.
    """

    def __init__(self, folder: Path, models: Path, engines: Path, *, clock: TurnedClock | None = None, **more: Any) -> None:
        self.broker = Mosquitto(folder / "broker").start()
        self.observer = Observer(folder, self.broker.port)
        self.inbox, self.hub_file = folder / "inbox", folder / "hub.sqlite"
        self.inbox.mkdir()
        self.state = folder / "state"
        if engines.exists():
            shutil.copytree(engines, self.state / "engines", dirs_exist_ok=True)
        self.config = config = folder / "almena.yaml"
        source = {"type": "folder", "path": str(self.inbox), "watch": True, "settle_s": 0}
        settings = {
            "device": {"name": DEVICE},
            "state_dir": str(self.state),
            "engines": {"models_dir": str(models)},
            "streams": [{"name": "photos", "source": source, "tasks": [{"type": "faces"}]}],
            "mqtt": {"port": self.broker.port, "delivery": "hub"},
            "web": {"enabled": False},
            "telemetry": {"period_s": 1},
            **more,
        }
        config.write_text(yaml.safe_dump(settings))
        hub = ["fleet.ingest", "--store", str(self.hub_file), "--port", str(self.broker.port)]
        self._arguments = {"vision": ["agent.vision", str(config)], "uplink": ["agent.uplink", str(config)], "hub": hub}
        self._clock = clock
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._agent = AgentProcess(folder, "run", "--quiet", "--config", str(config))
        for name in self._arguments:
            self.start(name)

    def supervise(self) -> None:
        """From now on the agent's two processes are children of `almena run`, which starts them again."""
        for name in AGENT:
            self.stop(name)
        self._agent.start()

    def start(self, name: str) -> None:
        """Start one of `vision`, `uplink`, `hub`."""
        turned = self._clock.environment if self._clock and name in AGENT else {}
        module = ["tests.fakes.turned_clock"] if turned else []
        command = [sys.executable, "-m", *module, *self._arguments[name]]
        self._processes[name] = subprocess.Popen(command, env={**os.environ, **turned})

    def kill(self, name: str) -> None:
        """SIGKILL, and another start: by the supervisor if there is one."""
        if name in AGENT and self._agent.running:
            wait_until(lambda: f"agent.{name}" in self._agent.processes(), 60, f"{name} to be started again")
            self._agent.processes()[f"agent.{name}"].kill()
            return
        self.running(name)
        self._processes[name].send_signal(signal.SIGKILL)
        self._processes[name].wait()
        self.start(name)

    def stop(self, name: str) -> None:
        """SIGTERM; it must end in order, or at once if it was killed a moment ago and does not listen to signals yet."""
        self._processes[name].terminate()
        assert self._processes.pop(name).wait(60) in (0, -signal.SIGTERM)

    def running(self, name: str) -> None:
        """It has not ended by itself."""
        assert self._processes[name].poll() is None, f"{name} had ended by itself"

    def close(self) -> None:
        """End everything."""
        try:
            assert self._agent.stop() == 0
        finally:
            for process in self._processes.values():
                process.terminate()
            for process in self._processes.values():
                process.wait(60)
            self.observer.close()
            self.broker.stop()

    def stored(self) -> list[dict[str, object]]:
        """Every row that the hub holds, by SQL alone."""
        if not self.hub_file.exists() or not self.sql(self.hub_file, "SELECT 1 FROM sqlite_master WHERE name = 'events'"):
            return []
        events = "SELECT spool, seq, 'event' AS lane, payload FROM events"
        rows = self.sql(self.hub_file, f"{events} UNION ALL SELECT spool, seq, lane, payload FROM records")
        return [{"spool": spool, "seq": seq, "lane": lane, **json.loads(payload)} for spool, seq, lane, payload in rows]

    def faces(self) -> int:
        """How many faces the hub holds."""
        return sum(row["kind"] == "face" for row in self.stored())

    def pending(self) -> int:
        """Event rows that the device still holds unsettled, by SQL alone."""
        query = "SELECT COUNT(*) FROM rows WHERE state = 0 AND lane = 'event'"
        return int(self.sql(self.state / "outbox" / "outbox.db", query)[0][0])

    @staticmethod
    def sql(file: Path, query: str) -> list[tuple[Any, ...]]:
        """What is in a database."""
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as database:
            return database.execute(query).fetchall()
