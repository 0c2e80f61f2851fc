"""`make hub`: a hub at work on this machine, with nothing to set up: an embedded broker, the hub on SQLite, and three devices.

Two devices are the uplink's own code with made-up faces; the third is a whole agent that sees the sample clip, as soon as it is ready.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import signal
import sys
from pathlib import Path

import yaml
from sqlalchemy import insert

from agent import logs
from agent.errors import AlmenaError
from agent.home import default_folder, free_port
from agent.say import say
from agent.supervisor import Child, Supervisor
from fleet.accounts import Accounts
from fleet.settings import HubSettings, load
from fleet.store import Store
from fleet.store.database import writing
from fleet.store.sole import sole_hub
from fleet.store.tables import devices

ADMIN = "admin"
SIMULATED = {"bakery": 2}
CAMERA, CAMERA_SITE = "library-1", "library"
GROUP = "simulated"
"""Of the devices that the console offers to switch off."""
TELEMETRY_S = 5.0
STOP_S = 20.0
HEADER = "# Written by `make hub` at each start. Copy it and change the copy: almena hub --config COPY\n"


def write_settings(folder: Path) -> Path:
    """The settings of the hub of a start, in `folder`: free ports on loopback, the store beside them."""
    content = {
        "store": "sqlite:///hub.sqlite",
        "broker": {"port": free_port(1884), "version": "3.1.1"},
        "web": {"port": free_port(8640)},
        "alerts": {"period_s": 2.0},
    }
    return _written(folder / "hub.yaml", HEADER, content)


def write_scenarios(folder: Path, port: int) -> tuple[Path, Path]:
    """What `almena simulate` plays: devices that are well, and two faults now and then; and the device that stands in for the camera."""
    names = list(_simulated())
    common = {"mqtt": {"port": port, "version": "3.1.1"}, "telemetry_s": TELEMETRY_S, "events_per_minute": 12.0}
    faults = [
        {"fault": "hot", "at_s": 120, "for_s": 180, "every_s": 900, "devices": [names[0]]},
        {"fault": "offline", "at_s": 300, "for_s": 120, "every_s": 900, "devices": [names[-1]]},
    ]
    played = {**common, "state_dir": str(folder / "devices"), "sites": SIMULATED, "faults": faults}
    stand_in = {**common, "state_dir": str(folder / "stand-in"), "sites": {CAMERA_SITE: 1}}
    header = "# Written by `make hub` at each start.\n"
    return _written(folder / "simulate.yaml", header, played), _written(folder / "stand-in.yaml", header, stand_in)


def first_login(settings: HubSettings) -> str | None:
    """A new password of the user `admin`, if nobody can log in yet; it is kept nowhere. The devices get their sites. Raises AlmenaError."""
    with sole_hub(settings.store):
        store = Store(settings.store)
        try:
            accounts = Accounts(store.engine)
            if accounts.users():
                return None
            password = secrets.token_urlsafe(12)
            accounts.add_user("first run", ADMIN, password, "admin")
            with writing(store.engine) as connection:
                known = [{"device": name, "site": site, "group": GROUP} for name, site in _simulated().items()]
                connection.execute(insert(devices), [*known, {"device": CAMERA, "site": CAMERA_SITE, "group": "cameras"}])
            return password
        finally:
            store.close()


def children(settings: HubSettings, folder: Path, demo: Path) -> list[Child]:
    """The processes in the order of their start. `demo`: where models and sample clip are, or are fetched to."""
    port = settings.broker.port
    simulated, stand_in = write_scenarios(folder, port)
    whole = [CAMERA, "--port", str(port), "--dir", str(folder / "camera"), "--demo", str(demo), "--stand-in", str(stand_in)]
    return [
        Child("broker", ["agent.broker", "--port", str(port)]),
        Child("hub", ["agent.cli", "hub", "--config", str(folder / "hub.yaml")]),
        Child("devices", ["agent.cli", "simulate", str(simulated)]),
        Child("camera", ["agent.demo_camera", *whole]),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Until Ctrl-C. Exit code 1 where something cannot be set up; standard error says what."""
    parser = argparse.ArgumentParser(prog="python -m fleet.first_run", description=(__doc__ or "").strip())
    parser.add_argument("--dir", type=Path, help="where everything is kept; default: ~/.local/share/almena/hub, and models beside it")
    given: Path | None = parser.parse_args(arguments).dir
    demo = (given or default_folder()).resolve()
    folder = demo if given else demo / "hub"
    os.umask(0o077)
    logs.setup("first-run", logging.WARNING)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        settings = load(write_settings(folder))
        password = first_login(settings)
        processes = children(settings, folder, demo)
    except (AlmenaError, OSError) as error:
        print(f"almena: {error}", file=sys.stderr)
        return 1
    say(_greeting(settings, folder, password))
    Supervisor(processes, stop_s=STOP_S).run()
    say("almena: stopped")
    return 0


def _simulated() -> dict[str, str]:
    """Name to site."""
    return {f"{site}-{number}": site for site, count in SIMULATED.items() for number in range(1, count + 1)}


def _greeting(settings: HubSettings, folder: Path, password: str | None) -> str:
    login = f"user {ADMIN}, password {password} (shown this once)" if password else f"user {ADMIN}, with the password of the first start"
    return f"""
  Console  http://{settings.web.host}:{settings.web.port}/   (it answers in a few seconds)
  Log in   {login}
  Broker   {settings.broker.host}:{settings.broker.port}, embedded, without passwords: it is for trying things out
  Files    {folder}   (remove the folder to begin anew)
  Devices  {", ".join(_simulated())} are simulated; {CAMERA} is a whole agent that sees a sample clip, and joins when it is ready
  Try      switch one off on the first page, and see it go stale, then offline
  Stop     Ctrl-C
"""


def _written(file: Path, header: str, content: object) -> Path:
    file.write_text(header + yaml.safe_dump(content, sort_keys=False))
    return file


if __name__ == "__main__":
    sys.exit(main())
