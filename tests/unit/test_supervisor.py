"""The supervisor with real processes: restarts, order of the stop, deadline, death of the parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from agent.notify import notify
from agent.registry import SOURCES, UnknownPluginError, resolve
from agent.supervisor import STABLE_S, Child, Supervisor
from agent.timing import StageTimes
from tests.waiting import wait_until

pytestmark = pytest.mark.unit

PROGRAM = """
import os, signal, sys, threading, pathlib
from agent.notify import notify
name, folder, how = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3]
if how == "dies":
    sys.exit(3)
if how == "hangs":
    notify("READY=1")
    os.kill(os.getpid(), signal.SIGSTOP)
def end(*_):
    with (folder / "ends").open("a") as file:
        file.write(name + "\\n")
    if how != "stays":
        sys.exit(0)
signal.signal(signal.SIGTERM, end)
(folder / name).write_text("started")
while True:
    threading.Event().wait(60)
"""
AGENT = """
import pathlib, sys
from agent.supervisor import Child, Supervisor
folder = sys.argv[1]
Supervisor([Child(name, ["program", name, folder, "waits"]) for name in ("broker", "uplink", "vision")]).run()
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}")
    return tmp_path


@pytest.fixture
def agent(program: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A supervisor in a process of its own, with three children."""
    process = subprocess.Popen([sys.executable, "-c", AGENT, str(program)])
    wait_until(lambda: all((program / name).exists() for name in ("broker", "uplink", "vision")), 20, "three processes")
    yield process
    process.kill()
    process.wait()


def test_back_off_grows_while_it_ends_soon_and_is_short_after_a_calm_time(program: Path) -> None:
    child = Child("vision", ["program", "vision", str(program), "dies"])
    waits = []
    for _ in range(8):
        child.due = 0.0
        child.look()
        assert child.process is not None
        assert child.process.wait(60) == 3
        child.look()
        waits.append(child.wait_s)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert child.restarts == 8
    assert child.due > time.monotonic() + 20
    child.look()
    assert child.process is None, "not before it is due"
    child.due = 0.0
    child.look()
    child.process.wait(60)
    child.started = time.monotonic() - STABLE_S - 1
    child.look()
    assert child.wait_s == 0.5


def test_what_cannot_be_started_is_tried_again(program: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    child = Child("vision", ["program", "vision", str(program), "waits"])
    with monkeypatch.context() as broken:
        broken.setattr(sys, "executable", str(program / "nothing"))
        child.look()
    assert child.process is None
    assert "vision could not be started ([Errno 2]" in caplog.text
    assert (child.restarts, child.wait_s) == (1, 1.0)
    child.due = 0.0
    child.look()
    assert child.process is not None
    child.stop(20)


def test_what_hangs_is_killed_and_started_again(program: Path, caplog: pytest.LogCaptureFixture) -> None:
    child = Child("vision", ["program", "vision", str(program), "hangs"], silent_s=0.3)

    def replaced() -> bool:
        child.due = 0.0
        child.look()
        return child.restarts == 2

    wait_until(replaced, 30, "two more processes")
    assert caplog.text.count("no sign of life") == 2
    assert caplog.text.count("was killed by signal 9") == 2
    child.stop(20)


def test_what_never_spoke_is_not_expected_to(program: Path) -> None:
    child = Child("broker", ["program", "broker", str(program), "waits"], silent_s=0.0)
    child.look()
    wait_until(lambda: (program / "broker").exists(), 20, "the process")
    child.look()
    child.look()
    assert child.process is not None
    assert child.process.poll() is None
    child.stop(20)


def test_a_killed_process_comes_back_and_the_others_stay(program: Path, agent: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(agent.pid).children()
    before = {child.pid for child in children}
    (program / "broker").unlink()
    next(child for child in children if "broker" in child.cmdline()).kill()
    wait_until(lambda: (program / "broker").exists(), 20, "the process to come back")
    after = {child.pid for child in psutil.Process(agent.pid).children()}
    assert len(before & after) == 2
    assert len(after) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_goes_against_the_flow(program: Path, agent: subprocess.Popen[bytes], number: signal.Signals) -> None:
    agent.send_signal(number)
    assert agent.wait(60) == 0
    assert (program / "ends").read_text().split() == ["vision", "uplink", "broker"]


def test_children_end_when_the_supervisor_is_killed(program: Path, agent: subprocess.Popen[bytes]) -> None:
    agent.kill()
    wait_until(
        lambda: len((program / "ends").read_text().split()) == 3 if (program / "ends").exists() else False, 20, "the children to end"
    )


def test_what_does_not_stop_in_time_is_killed(program: Path) -> None:
    child = Child("vision", ["program", "vision", str(program), "stays"])
    child.look()
    wait_until(lambda: (program / "vision").exists(), 20, "the process")
    assert child.process is not None
    child.stop(1.0)
    assert child.process.returncode == -signal.SIGKILL
    assert (program / "ends").read_text() == "vision\n"


def test_a_tick_that_fails_is_said_once_and_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 5:
            supervisor.stop()
        raise ValueError("no disk")

    supervisor = Supervisor([], tick)
    handlers = [signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)]
    try:
        supervisor.run()
    finally:
        for name, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(name, handler)
    assert ticks == 5
    assert caplog.text.count("ValueError: no disk") == 1


def test_notify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        notify("WATCHDOG=1")
        assert manager.recv(100) == b"WATCHDOG=1"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        name = f"almena-test-{os.getpid()}"
        manager.bind("\0" + name)
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody"))
    notify("STOPPING=1")
    assert "was not told STOPPING=1" in caplog.text


def test_notify_does_not_wait_for_a_manager_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        while not caplog.text:
            notify("WATCHDOG=1")
    assert "was not told WATCHDOG=1" in caplog.text


def test_registry() -> None:
    assert resolve(SOURCES, "folder", "source").__name__ == "FolderSource"
    with pytest.raises(UnknownPluginError, match=r"no source is called 'rstp'\. Did you mean 'rtsp'\? There are: dicom, folder, "):
        resolve(SOURCES, "rstp", "source")
    with pytest.raises(UnknownPluginError) as error:
        resolve(SOURCES, "qqq", "source")
    assert "Did you mean" not in str(error.value)


def test_stage_times() -> None:
    times = StageTimes(("infer", "idle"))
    assert times.percentiles() == {}

    def add(offset: int) -> None:
        for number in range(1, 101):
            times.add("infer", (offset * 100 + number) / 1000)

    threads = [threading.Thread(target=add, args=(offset,)) for offset in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    figures = times.percentiles()
    assert set(figures) == {"infer_p50_seconds", "infer_p90_seconds", "infer_p99_seconds"}
    assert figures["infer_p50_seconds"] == pytest.approx(0.5005)
    assert figures["infer_p90_seconds"] == pytest.approx(0.9001)
    with pytest.raises(ValueError), times.stage("idle"):
        raise ValueError
    assert "idle_p50_seconds" in times.percentiles()
