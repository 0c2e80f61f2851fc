"""What the settings name: the file itself, models, broker, and the address of the page."""

from __future__ import annotations

import errno
import hashlib
import secrets
import socket
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from agent.checkup import Check
from agent.checkup.calibrations import calibrations
from agent.checkup.certificates import certificates
from agent.checkup.dicom import dicom_checks
from agent.checkup.door import door_checks
from agent.checkup.libraries import gstreamer
from agent.checkup.tunings import tunings
from agent.errors import SettingsError
from agent.mqtt import leave
from agent.remote import effective
from agent.settings import MqttSettings, Settings
from agent.uplink.trouble import UNSUPPORTED_VERSION, Trouble, before_answer, from_exception, from_reason
from engines.card import card, names

BROKER_TIMEOUT_S = 3.0


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
    return [*own, *certificates(settings), _broker(settings), *door_checks(settings), web(settings), *dicom]


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


def _broker(settings: Settings) -> Check:
    """With a certificate there is one session for each name: a second one would end that of the running agent."""
    if settings.identity and settings.mqtt and _answers(settings.control_socket):
        return Check("broker", "ok", f"{settings.mqtt.host}:{settings.mqtt.port} is in use by the running agent; its page says how it is")
    return broker(settings.mqtt, settings.device.name)


def broker(settings: MqttSettings | None, device: str) -> Check:
    """Connect under a client id of its own, so that a running agent keeps its session."""
    if settings is None:
        return Check("broker", "ok", "none set: results stay on this device")
    version, trouble = _first_answer(settings, device)
    if trouble is None:
        return Check("broker", "ok", f"{settings.host}:{settings.port} accepts this device with MQTT {version}")
    if trouble.code == "MQTT_CONNECTION_REFUSED" and settings.embedded_broker:
        return Check("broker", "ok", "the embedded one; `almena run` starts it")
    text, _, advice = trouble.message.partition("; ")
    return Check("broker", "fail", f"{text} ({trouble.code})", advice or "look into the broker's log")


def _first_answer(settings: MqttSettings, device: str) -> tuple[str, Trouble | None]:
    first = "3.1.1" if settings.version == "3.1.1" else "5"
    trouble = _connect(settings, device, first)
    if settings.version == "auto" and trouble is not None and trouble.reason_code == UNSUPPORTED_VERSION:
        return "3.1.1", _connect(settings, device, "3.1.1")
    return first, trouble


def _connect(settings: MqttSettings, device: str, version: str) -> Trouble | None:
    """None when the broker accepts."""
    protocol = MQTTProtocolVersion.MQTTv5 if version == "5" else MQTTProtocolVersion.MQTTv311
    client = mqtt.Client(CallbackAPIVersion.VERSION2, f"{device}-doctor-{secrets.token_hex(4)}", protocol=protocol)
    client.connect_timeout = BROKER_TIMEOUT_S
    answered, ended = threading.Event(), threading.Event()
    answers: list[ReasonCode] = []

    def on_connect(_client: Any, _data: Any, _flags: Any, reason: ReasonCode, _properties: Any) -> None:
        answers.append(reason)
        answered.set()

    def on_disconnect(*_: Any) -> None:
        ended.set()
        answered.set()

    client.on_connect, client.on_disconnect = on_connect, on_disconnect
    try:
        _credentials(client, settings)
        client.connect(settings.host, settings.port)
    except (OSError, ValueError) as error:
        return from_exception(error, settings)
    client.loop_start()
    try:
        answered.wait(BROKER_TIMEOUT_S)
        closed = ended.is_set()
    finally:
        leave(client)
    if answers:
        return from_reason(answers[0].value, str(answers[0])) if answers[0].is_failure else None
    return before_answer(settings) if closed else from_exception(TimeoutError(), settings)


def _credentials(client: mqtt.Client, settings: MqttSettings) -> None:
    if settings.username is not None:
        client.username_pw_set(settings.username, settings.secret())
    if settings.tls is not None:
        client.tls_set_context(settings.tls.context())


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
            if error.errno == errno.EADDRINUSE and _answers(settings.control_socket):
                return Check("web", "ok", f"{where} is taken; an agent with these settings is running")
            advice = "Stop what uses it (ss -ltnp), or set web.port or web.host to something else."
            return Check("web", "fail", f"{where}: {error.strerror}", advice)
    return Check("web", "ok", f"{where} is free")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0
