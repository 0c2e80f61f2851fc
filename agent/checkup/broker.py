"""Whether the broker takes this device."""

from __future__ import annotations

import secrets
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from agent.checkup import Check
from agent.mqtt import leave
from agent.settings import MqttSettings, Settings
from agent.uplink.trouble import UNSUPPORTED_VERSION, Trouble, before_answer, from_exception, from_reason
from agent.uplink.word import said

BROKER_TIMEOUT_S = 3.0
NO_VERSION = b"\x10\x0c\x00\x04MQTT\x7f\x02\x00\x00\x00\x00"
"""A CONNECT of a version that there is not: a broker answers that, or closes (MQTT 5, clause 3.1.2.2), and no session begins."""
SILENT = "Look into its log: journalctl -u almena-uplink -n 50; or start the agent."


def broker_check(settings: Settings) -> Check:
    """With a client certificate there may be one session for each name, and a second one would end that of the running agent. Then the
    broker is asked for a handshake, and the agent for the rest."""
    mqtt_settings, word = settings.mqtt, said(settings.state_dir)
    certified = mqtt_settings and mqtt_settings.tls and mqtt_settings.tls.cert_file
    if mqtt_settings is None or not certified or not (word or answers(settings.control_socket)):
        return broker(mqtt_settings, settings.device.name)
    where = f"{mqtt_settings.host}:{mqtt_settings.port}"
    if trouble := handshake(mqtt_settings):
        return _failed(trouble, word.sentence if word else "")
    if word is None:
        return Check("broker", "warn", f"{where} takes this device's certificate; the uplink does not say how its session is", SILENT)
    if not word.connected:
        return Check("broker", "fail", f"{where} takes this device's certificate, but {word.sentence}", SILENT)
    return Check("broker", "ok", f"{where} takes this device's certificate; {word.sentence}")


def handshake(settings: MqttSettings) -> Trouble | None:
    """TCP, and TLS in both directions; None where the broker takes the certificate. A broker says no to one only after its part of the
    handshake (TLS 1.3), hence it is asked something."""
    assert settings.tls is not None
    try:
        with (
            socket.create_connection((settings.host, settings.port), BROKER_TIMEOUT_S) as plain,
            settings.tls.context().wrap_socket(plain, server_hostname=settings.host) as link,
        ):
            try:
                link.sendall(NO_VERSION)
                link.recv(16)
            except (ssl.SSLError, ConnectionError):
                return before_answer(settings)
    except (OSError, ValueError) as error:
        return from_exception(error, settings)
    return None


def broker(settings: MqttSettings | None, device: str) -> Check:
    """Connect under a client id of its own, so that a running agent keeps its session."""
    if settings is None:
        return Check("broker", "ok", "none set: results stay on this device")
    version, trouble = _first_answer(settings, device)
    if trouble is None:
        return Check("broker", "ok", f"{settings.host}:{settings.port} accepts this device with MQTT {version}")
    if trouble.code == "MQTT_CONNECTION_REFUSED" and settings.embedded_broker:
        return Check("broker", "ok", "the embedded one; `almena run` starts it")
    return _failed(trouble)


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


def _failed(trouble: Trouble, more: str = "") -> Check:
    text, _, advice = trouble.message.partition("; ")
    return Check("broker", "fail", "; ".join(filter(None, (f"{text} ({trouble.code})", more))), advice or "look into the broker's log")


def answers(path: Path) -> bool:
    """Whether somebody listens at a Unix socket; nobody does at a path that is too long for one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
