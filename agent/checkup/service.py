"""What the settings name: the file itself, models, broker, and the address of the page."""

from __future__ import annotations

import errno
import hashlib
import socket
from pathlib import Path

import httpx

from agent.checkup import Check
from agent.checkup.broker import answers, broker_check
from agent.checkup.calibrations import calibrations
from agent.checkup.certificates import certificates
from agent.checkup.dicom import dicom_checks
from agent.checkup.door import door_checks
from agent.checkup.libraries import gstreamer
from agent.checkup.tunings import tunings
from agent.errors import SettingsError
from agent.remote import effective
from agent.settings import Settings
from engines.card import card, names


def read_settings(config: Path | None) -> tuple[Settings | None, Check]:
    """The settings, None when they are wrong; without a file the defaults."""
    if config is None:
        return Settings(), Check("settings", "ok", "no almena.yaml here: the defaults are looked at")
    try:
        found = effective(config)
    except SettingsError as error:
        return None, Check("settings", "fail", str(error), "Correct the file; almena.example.yaml explains every setting.")
    settings, text = found.settings, f"{config}: device {found.settings.device.name}, {len(found.settings.streams)} stream(s)"
    if found.problem:
        return settings, Check("settings", "warn", f"{text}; {found.problem}", "The hub shows what it wants; want something else there.")
    return settings, Check("settings", "ok", f"{text}; from the hub: {', '.join(found.wish.state)}" if found.wish else text)


def service_checks(settings: Settings) -> list[Check]:
    """All of them."""
    pipelines = any(stream.source.type == "gstreamer" for stream in settings.streams)
    own = [*models(settings), *calibrations(settings), *tunings(settings), gstreamer(pipelines)]
    dicom = [*dicom_checks(settings.dicom, settings.state_dir)] if settings.dicom else []
    return [*own, *certificates(settings), broker_check(settings), *door_checks(settings), web(settings), *dicom]


def models(settings: Settings) -> list[Check]:
    """Each model that a task names, or any that is there: present, and the file that its card describes."""
    wanted = {str(value) for stream in settings.streams for task in stream.tasks for _, value in task}
    return [found for name in names() if (found := _model(name, settings.models_dir, name in wanted))]


def _model(name: str, folder: Path, wanted: bool) -> Check | None:
    path = folder / card(name).filename
    if not path.is_file():
        advice = f"It is fetched at the first start; `almena models fetch {name}` does it now."
        return Check(f"model {name}", "warn", "not fetched", advice) if wanted else None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != card(name).sha256:
        advice = f"The file is damaged or another: delete it and run `almena models fetch {name}`."
        return Check(f"model {name}", "fail", f"{path} has SHA-256 {digest}, its card says {card(name).sha256}", advice)
    return Check(f"model {name}", "ok", f"{path}, SHA-256 as in its card")


def web(settings: Settings) -> Check:
    """Whether the page's port is free, or this agent's own."""
    page = settings.web
    where = f"{page.host}:{page.port}"
    if not page.enabled:
        return Check("web", "ok", "switched off")
    family = socket.AF_INET6 if ":" in page.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((page.host, page.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE and (answers(settings.control_socket) or _own_page(settings)):
                return Check("web", "ok", f"{where} is taken; an agent with these settings is running")
            advice = "Stop what uses it (ss -ltnp), or set web.port or web.host to something else."
            return Check("web", "fail", f"{where}: {error.strerror}", advice)
    return Check("web", "ok", f"{where} is free")


def _own_page(settings: Settings) -> bool:
    """Whether the page of this agent answers: its vision process may be down."""
    page = settings.web
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(page.host, page.host)
    address = f"{'https' if page.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{page.port}/healthz"
    try:
        answer = httpx.get(address, timeout=5.0, verify=False, trust_env=False)
        return bool(answer.json()["instance"] == settings.instance)
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return False
