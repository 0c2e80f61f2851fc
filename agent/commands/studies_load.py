"""DICOM and vision process for benchmarks, and the radiographs that are sent to them."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import yaml

from agent import settings as settings_module
from agent.commands.process_memory import peak_mb
from agent.errors import AlmenaError
from agent.outbox import Outbox
from agent.settings import Settings
from agent.supervisor import beside

LONGEST_S = 300.0
Over = Literal["c-store", "stow"]
Syntax = Literal["explicit", "jpeg-ls", "rle"]


@dataclass(frozen=True, slots=True)
class Way:
    """How radiographs are sent, and in which transfer syntax: Explicit VR Little Endian, or one that compresses without loss."""

    over: Over = "c-store"
    syntax: Syntax = "explicit"


LOOK_S = 0.02
STEPS = ("queue", "decode", "codec", "preprocess", "infer", "explain", "publish")


class StudiesAgent:
    """Both processes while they run."""

    def __init__(
        self, settings: Settings, processes: list[subprocess.Popen[bytes]], port: int, syntax: Syntax, token: str, client: httpx.Client
    ) -> None:
        self._settings = settings
        self._processes = processes
        self._port = port
        self._syntax: Syntax = syntax
        self._token = token
        self._client = client
        self._next = 0

    def metrics(self) -> dict[str, float]:
        """Of the stream."""
        found: dict[str, float] = self._client.get("/metrics").json().get("xray", {})
        return found

    def send(self, side: int, count: int, pause_s: float, associations: int) -> tuple[int, float]:
        """How many of `count` radiographs were refused, and the seconds until the others were committed."""
        from agent.commands.studies_sender import send

        before, first, self._next = self._committed(), self._next, self._next + count
        shares = [range(first + number, first + count, associations) for number in range(associations)]
        started = time.perf_counter()
        with ThreadPoolExecutor(associations) as pool:
            refused = sum(pool.map(lambda share: send(self._port, side, self._syntax, share, pause_s, self._token), shares))
        self.until(lambda: self._committed() >= before + count - refused)
        return refused, time.perf_counter() - started

    def _committed(self) -> int:
        """Radiographs whose event is committed: they are moved then, and to count them costs the agent nothing."""
        return len(os.listdir(self._settings.state_dir / "studies" / "shown"))

    def latencies(self, count: int) -> dict[str, dict[str, float]]:
        """Percentiles of each step and of their sum over the last `count` studies; `codec` is a part of `decode`."""
        settings = self._settings
        with closing(Outbox.open(settings.outbox_dir, settings.device.name, settings.outbox)) as outbox:
            told = [envelope["data"]["timings"] for envelope in outbox.history(after_seq=0, limit=100_000, kind="study")][-count:]
        times = {step: [one[step] for one in told if step in one] for step in STEPS}
        times["total"] = [sum(seconds for step, seconds in one.items() if step != "codec") for one in told]
        return {name: {f"p{q}": float(np.percentile(found, q)) for q in (50, 95, 99)} for name, found in times.items() if found}

    def vision_mb(self) -> float:
        """The most that the vision process had."""
        return peak_mb(self._processes[0].pid)

    def until(self, true: Callable[[], bool]) -> None:
        """Raises AlmenaError where it does not come true, or a process ends."""
        deadline = time.monotonic() + LONGEST_S
        while time.monotonic() < deadline:
            if any(process.poll() is not None for process in self._processes):
                raise AlmenaError("a process of the agent ended; its message is above")
            try:
                if true():
                    return
            except httpx.TransportError:
                pass
            time.sleep(LOOK_S)
        raise AlmenaError(f"the radiographs were not analysed within {LONGEST_S:.0f} s; the agent's messages are above")


@contextmanager
def studies_agent(task: dict[str, Any], engines: dict[str, Any], way: Way, engines_dir: Path | None = None) -> Iterator[StudiesAgent]:
    """Fresh processes with the settings `task` and `engines`; engines that were built in `engines_dir` are taken from there."""
    with tempfile.TemporaryDirectory(prefix="almena-bench-") as scratch, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        state, config = Path(scratch) / "state", Path(scratch) / "bench.yaml"
        state.mkdir()
        if engines_dir:
            engines_dir.mkdir(parents=True, exist_ok=True)
            (state / "engines").symlink_to(engines_dir.resolve())
        token, dicom = "", {"receiver": {"port": port}}
        if way.over == "stow":
            token, dicom = secrets.token_hex(), {"receiver": {"enabled": False}, "web": {"port": port, "token_file": "token"}}
            (Path(scratch) / "token").write_text(token)
        radiographs = {"type": "study", "pixels": False, "unfamiliar": False, "margin": 0.0, **task}
        content = {
            "state_dir": "state", "engines": engines, "dicom": dicom,
            "streams": [{"name": "xray", "source": {"type": "dicom"}, "tasks": [radiographs]}],
        }  # fmt: skip
        config.write_text(yaml.safe_dump(content))
        settings = settings_module.load(config)
        processes = [beside("-m", module, str(config)) for module in ("agent.vision", "agent.dicom")]
        try:
            transport = httpx.HTTPTransport(uds=str(settings.control_socket))
            with httpx.Client(transport=transport, base_url="http://vision") as client:
                running = StudiesAgent(settings, processes, port, way.syntax, token, client)
                running.until(lambda: _listens(port) and settings.control_socket.exists())
                yield running
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as caller:
        return caller.connect_ex(("127.0.0.1", port)) == 0
