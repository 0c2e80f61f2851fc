"""`make hub` as somebody sees it who has nothing yet."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from fleet import first_run
from fleet.accounts import Accounts
from fleet.settings import load
from fleet.simulate.scenario import load as scenario_of
from fleet.store.database import connect
from tests.waiting import wait_until


@pytest.fixture
def folder(tmp_path: Path, short_clip: Path, models_dir: Path, engines_dir: Path) -> Path:
    """What `make hub` would fetch and build is there already, from earlier sessions, and a short clip instead of its own."""
    engines_dir.mkdir(parents=True, exist_ok=True)
    (tmp_path / "sample.mp4").symlink_to(short_clip)
    (tmp_path / "models").symlink_to(models_dir)
    (tmp_path / "camera" / "state").mkdir(parents=True)
    (tmp_path / "camera" / "state" / "engines").symlink_to(engines_dir)
    return tmp_path


def test_three_live_devices_behind_a_first_login_and_one_of_them_sees(folder: Path) -> None:
    command = [sys.executable, "-m", "fleet.first_run", "--dir", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hub:
        try:
            assert hub.stdout is not None
            told = "".join(iter(hub.stdout.readline, "  Stop     Ctrl-C\n"))
            (url,), (password,) = re.findall(r"http://\S+", told), re.findall(r"password (\S+)", told)
            with httpx.Client(base_url=url, timeout=30) as client:
                wait_until(lambda: _answers(client), 60, "the console")
                assert client.get("/", follow_redirects=True).url.path == "/login"
                client.post("/api/v1/login", json={"username": "admin", "password": password}).raise_for_status()
                wait_until(lambda: client.get("/api/v1/fleet").json()["states"] == {"online": 3}, 120, "three devices online")
                assert client.get("/api/v1/fleet").json()["groups"] == ["cameras", first_run.GROUP]
                seen = {"device": first_run.CAMERA, "kind": "face"}
                wait_until(lambda: client.get("/api/v1/events", params=seen).json()["events"], 120, "a face that the camera sees")
                simulated = {"device": "bakery-1"}
                wait_until(lambda: client.get("/api/v1/events", params=simulated).json()["events"], 60, "an event of a simulated device")
        finally:
            hub.send_signal(signal.SIGINT)
        assert hub.wait(60) == 0
    assert password not in "".join(file.read_text(errors="replace") for file in folder.glob("*.*") if file.suffix != ".mp4")


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_the_login_is_made_once_and_the_scenario_is_one_that_can_be_played(tmp_path: Path) -> None:
    settings = load(first_run.write_settings(tmp_path))
    password = first_run.first_login(settings)
    assert password
    assert first_run.first_login(settings) is None
    engine = connect(settings.store)
    try:
        assert Accounts(engine).log_in("admin", password, "127.0.0.1")
    finally:
        engine.dispose()
    simulated, stand_in = (scenario_of(path, {}) for path in first_run.write_scenarios(tmp_path, settings.broker.port))
    assert {name for step in simulated.faults for name in step.devices} <= set(simulated.names())
    assert stand_in.names() == [first_run.CAMERA]
