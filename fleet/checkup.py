"""`almena hub doctor`: what the hub's host has, what is wrong with it, and what to do. It changes nothing."""

from __future__ import annotations

import http.client
import json
import ssl
from datetime import timedelta
from pathlib import Path
from typing import Any

from agent.checkup import Check
from agent.checkup.certificates import BY_CA, CA_SOON, certificate
from agent.checkup.host import host_checks
from agent.checkup.installed import installed_checks
from agent.errors import SettingsError
from fleet import settings as hub_settings
from fleet.settings import SQLITE, HubSettings, HubWebSettings

SOON = timedelta(days=30)
BY_FLEET = "run `almena fleet broker-config DIR` on the fleet's machine, give the hub its new file, and start it anew"
BY_DOOR = "run `almena fleet door-certificate` on the fleet's machine, and start the hub anew"
BY_HAND = "get another one from who made it, and start the hub anew"
ANSWERS_WITHIN_S = 5.0


def examine(config: Path | None) -> list[Check]:
    """Every check, in the order of printing; without a file the defaults are looked at."""
    try:
        settings = hub_settings.load(config) if config else HubSettings()
        verdict = Check("settings", "ok", f"{config or 'no hub.yaml here: the defaults'}; store {_store(settings)}")
    except SettingsError as error:
        return [*installed_checks(), Check("settings", "fail", str(error), "Correct the file.")]
    folder = Path(settings.store.removeprefix(SQLITE)).parent if settings.store.startswith(SQLITE) else Path()
    return [*host_checks(folder), *installed_checks(), verdict, *certificates(settings), running(settings.web)]


def certificates(settings: HubSettings) -> list[Check]:
    """One for each file that the settings name."""
    broker, web, door = settings.broker.tls, settings.web.tls, settings.door
    named = [
        ("broker.tls.ca_file", broker and broker.ca_file, BY_CA, CA_SOON),
        ("broker.tls.cert_file", broker and broker.cert_file, BY_FLEET, SOON),
        ("web.tls.cert_file", web and web.cert_file, BY_HAND, SOON),
        ("door.certificate", door and door.certificate, BY_DOOR, SOON),
        ("door.client_ca", door and door.client_ca, BY_CA, CA_SOON),
    ]
    return [certificate(name, path, how, soon) for name, path, how, soon in named if path]


def running(web: HubWebSettings) -> Check:
    """What the hub says of itself: whether it stores, and has its broker."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # nothing secret is asked or told
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(web.host, web.host)
    kind: Any = http.client.HTTPSConnection if web.tls else http.client.HTTPConnection
    connection = kind(host, web.port, timeout=ANSWERS_WITHIN_S, **({"context": context} if web.tls else {}))
    try:
        connection.request("GET", "/readyz", headers={"Host": f"localhost:{web.port}"})
        said = json.loads(connection.getresponse().read(65536))
        ready, trouble = bool(said["ready"]), said["trouble"] or "no connection to its broker"
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        advice = "sudo systemctl start almena.target; why it ended: journalctl -u almena-hub -n 50"
        return Check("hub", "fail", f"{host}:{web.port} does not answer as a hub ({error})", advice)
    finally:
        connection.close()
    if not ready:
        return Check("hub", "fail", f"it runs, and stores nothing: {trouble}", "journalctl -u almena-hub -n 50 says more.")
    return Check("hub", "ok", f"{host}:{web.port} is ready: it stores, and its broker is there")


def _store(settings: HubSettings) -> str:
    """Without a user's name."""
    return settings.store if settings.store.startswith(SQLITE) else "in PostgreSQL"
