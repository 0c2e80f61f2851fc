"""One MQTT session that is kept up for ever, over paho-mqtt.

    connect ──► CONNACK ──► birth, subscriptions, "up" ──► … ──► lost, "down" ──┐
       ▲            └─ refused: shown ─┐                                        │
       └───────── jittered back-off ◄──┴────────────────────────────────────────┘

Every connection is a new paho client with a clean start: what must survive lies in the outbox, desired state is retained, and a command
that met no session is sent again by its sender, so neither paho's queue nor a session kept by the broker is relied on.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent import wire
from agent.backoff import Backoff
from agent.mqtt import Network, OwnThread
from agent.settings import MqttSettings
from agent.uplink.credentials import Credentials
from agent.uplink.status import UplinkStatus
from agent.uplink.trouble import LOST, LOST_SOON, UNSUPPORTED_VERSION, Trouble, before_answer, from_exception, from_reason

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 15.0
STABLE_AFTER_S = 10.0
MAX_PACKET = 268_435_455
"""The largest remaining length that MQTT can express (MQTT 5, clause 1.5.5)."""

_NAMES = {MQTTProtocolVersion.MQTTv5: "5", MQTTProtocolVersion.MQTTv311: "3.1.1"}


@dataclass(frozen=True)
class Status:
    """Retained payloads of the status topic for one session."""

    topic: str
    birth: bytes
    stopped: bytes
    will: bytes

    @classmethod
    def of(cls, device: str, birth: wire.Birth) -> Status:
        """Goodbye and will go with the birth."""
        stopped, will = birth.model_copy(update={"state": "stopped"}), wire.Will(session=birth.session)
        return cls(wire.TOPICS["status"].of(device), wire.encode(birth), wire.encode(stopped), wire.encode(will))


class Listener(Protocol):
    """Called from the network thread: must not block, and must not publish."""

    def up(self, link: Link) -> None:
        """The broker has accepted the session."""

    def down(self, link: Link) -> None:
        """It is over; nothing more will be acknowledged on `link`."""

    def acknowledged(self, link: Link, mid: int, reason: int) -> None:
        """A PUBACK; `reason` is 0 under MQTT 3.1.1."""

    def received(self, topic: str, payload: bytes) -> None:
        """A message on a subscribed topic."""


class Link:
    """One accepted connection: the way to publish, with what the broker can take."""

    def __init__(self, client: paho.Client, protocol: str, receive_maximum: int, maximum_packet: int) -> None:
        self._client = client
        self.protocol = protocol
        self.receive_maximum = receive_maximum
        self.maximum_packet = maximum_packet

    @property
    def room_for_rows(self) -> int:
        """How many unacknowledged rows the broker takes at once; a few places are kept for birth, reported state and replies."""
        return max(1, self.receive_maximum - min(4, self.receive_maximum // 2))

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, properties: Properties | None = None) -> int:
        """Hand a message to the network thread; returns its packet id. `properties` are sent under MQTT 5 only."""
        return self._client.publish(topic, payload, qos, retain, properties if self.protocol == "5" else None).mid


def packet_size(topic: str, payload: bytes) -> int:
    """Upper bound of a PUBLISH packet's size at QoS 1 without properties (MQTT 5, clause 3.3)."""
    return 5 + 2 + len(topic.encode()) + 2 + 1 + len(payload)


class Session:
    """The thread that keeps one session up. `status_of()` makes birth, will and goodbye for each connection."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        status: UplinkStatus,
        listener: Listener,
        status_of: Callable[[], Status],
        subscriptions: Sequence[str],
        backoff: Backoff,
        credentials: Credentials | None = None,
        network: Network | None = None,
    ) -> None:
        self._settings = settings
        self._credentials = credentials
        self._network = network or OwnThread()
        self._client_id = client_id
        self._status = status
        self._listener = listener
        self._status_of = status_of
        self._subscriptions = [(topic, 1) for topic in subscriptions]
        self._backoff = backoff
        self._stop = threading.Event()
        self._anew = threading.Event()
        self._attempt: _Attempt | None = None
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        status.broker = f"{settings.host}:{settings.port}"
        status.delivery = settings.delivery
        status.become("connecting")

    def start(self) -> None:
        """Start trying."""
        self._thread.start()

    def stop(self, timeout: float = 2.0, *, goodbye: bool = True) -> None:
        """Say `stopped`, disconnect in order and end the thread; gives up waiting after `timeout` seconds. Without a `goodbye` the
        connection breaks, so that the broker publishes the will."""
        self._stop.set()
        self._anew.set()
        attempt = self._attempt
        if attempt is not None and goodbye:
            attempt.leave(timeout)
        elif attempt is not None:
            attempt.cut()
        self._thread.join(timeout)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False, properties: Properties | None = None) -> bool:
        """Send something that needs no outbox, if connected; False if not."""
        attempt = self._attempt
        if attempt is None or attempt.link is None:
            return False
        attempt.link.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        return True

    def reconnect(self) -> None:
        """Begin the session anew, with the certificate that is there now; at once, however long the wait after a refusal would be."""
        self._anew.set()
        attempt = self._attempt
        if attempt is not None:
            attempt.end()

    def announce(self) -> bool:
        """Publish the birth once more, if connected."""
        attempt = self._attempt
        return attempt is not None and self.publish(attempt.said.topic, attempt.said.birth, retain=True)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            started = time.monotonic()
            self._anew.clear()
            trouble = self._connect_and_stay()
            if self._stop.is_set():
                break
            if self._anew.is_set():
                self._status.become("connecting")
                continue
            if self._status.connected and time.monotonic() - started > STABLE_AFTER_S:
                failures = 0
            self._show(trouble)
            self._anew.wait(self._backoff.delay(failures))
            failures += 1

    def _connect_and_stay(self) -> Trouble:
        """Try 5 first where the settings leave it open; fall back only if the broker says that it does not speak it."""
        first = MQTTProtocolVersion.MQTTv311 if self._settings.version == "3.1.1" else MQTTProtocolVersion.MQTTv5
        trouble = self._try(first)
        if trouble.reason_code == UNSUPPORTED_VERSION and self._settings.version == "auto" and not self._stop.is_set():
            log.info("%s does not speak MQTT 5; using 3.1.1", self._status.broker)
            trouble = self._try(MQTTProtocolVersion.MQTTv311)
        return trouble

    def _try(self, protocol: MQTTProtocolVersion) -> Trouble:
        attempt = _Attempt(
            self._settings,
            self._credentials,
            self._client_id,
            protocol,
            self._status_of(),
            self._subscriptions,
            self._listener,
            self._status,
            self._network,
        )
        self._attempt = attempt
        try:
            return attempt.run(self._stop)
        finally:
            self._attempt = None

    def _show(self, trouble: Trouble) -> None:
        """Log a trouble when it is new, and keep it in the status until a connection succeeds."""
        answered = trouble.reason_code is not None or trouble.code.startswith("MQTT_TLS")
        if trouble != self._status.trouble:
            log.warning("%s", trouble)
        self._status.become("refused" if answered else "waiting", trouble)


class _ClosingSocket(ssl.SSLSocket):
    """Closes itself when the handshake fails: paho leaves it open, one for every attempt."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except (OSError, ValueError):
            self.close()
            raise


class _Attempt:
    """One paho client from connect to its end."""

    def __init__(
        self,
        settings: MqttSettings,
        credentials: Credentials | None,
        client_id: str,
        protocol: MQTTProtocolVersion,
        said: Status,
        subscriptions: list[tuple[str, int]],
        listener: Listener,
        status: UplinkStatus,
        network: Network,
    ) -> None:
        self.said = said
        self.link: Link | None = None
        self._settings = settings
        self._credentials = credentials
        self._protocol = protocol
        self._subscriptions = subscriptions
        self._listener = listener
        self._status = status
        self._network = network
        self._since = time.monotonic()
        self._trouble: Trouble | None = None
        self._answered = threading.Event()
        self._ended = threading.Event()
        self._goodbye: int | None = None
        self._said_goodbye = threading.Event()
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=protocol, reconnect_on_failure=False)

    def run(self, stop: threading.Event) -> Trouble:
        """Connect and stay until the end; returns why it ended."""
        client = self._client
        try:
            self._prepare(client)
            client.connect(self._settings.host, self._settings.port, self._settings.keepalive_s)
        except (OSError, ValueError) as error:
            return from_exception(error, self._settings)
        self._network.carry(client)
        try:
            if not self._answered.wait(ANSWER_WITHIN_S) and not stop.is_set():
                return from_exception(TimeoutError(), self._settings)
            self._ended.wait()
            return self._trouble or self._lost()
        finally:
            self._network.leave(client)
            client.on_connect = client.on_disconnect = client.on_publish = client.on_message = None
            if self.link is not None:
                self._listener.down(self.link)

    def _lost(self) -> Trouble:
        """Why it ended, where nobody said so."""
        if self.link is None:
            return before_answer(self._settings)
        return LOST if time.monotonic() - self._since > STABLE_AFTER_S else LOST_SOON

    def leave(self, timeout: float) -> None:
        """From another thread: publish `stopped`, wait for its PUBACK, disconnect."""
        if self.link is not None:
            self._goodbye = self.link.publish(self.said.topic, self.said.stopped, retain=True)
            self._said_goodbye.wait(timeout)
        self.end()

    def cut(self) -> None:
        """From another thread: end without a word to the broker."""
        connection: Any = self._client.socket()
        if connection is not None:
            with suppress(OSError):  # it has just ended by itself
                connection.shutdown(socket.SHUT_RDWR)
        self._answered.set()
        self._ended.set()

    def end(self) -> None:
        """From another thread: disconnect in order, without a goodbye."""
        self._client.disconnect()
        self._answered.set()
        self._ended.set()

    def _prepare(self, client: paho.Client) -> None:
        settings = self._settings
        if settings.username is not None:
            client.username_pw_set(settings.username, settings.secret())
        if settings.tls is not None:
            context = self._credentials.context() if self._credentials else settings.tls.context()
            context.sslsocket_class = _ClosingSocket
            client.tls_set_context(context)
        client.max_inflight_messages_set(0)
        client.will_set(self.said.topic, self.said.will, 1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: paho.ConnectFlags, reason: ReasonCode, properties: Properties | None
    ) -> None:
        if reason.is_failure:
            self._trouble = from_reason(reason.value, str(reason))
            self._answered.set()
            return
        if self._credentials:
            self._credentials.accepted()
        self._status.certificate_ends_at = self._settings.tls.ends() if self._settings.tls else None
        receive_maximum = min(getattr(properties, "ReceiveMaximum", 65535), 65535)
        name = _NAMES[self._protocol]
        self.link = Link(client, name, receive_maximum, getattr(properties, "MaximumPacketSize", MAX_PACKET))
        client.subscribe(self._subscriptions)  # before the birth, which may be answered with a command
        client.publish(self.said.topic, self.said.birth, 1, retain=True)
        self._status.protocol = name
        self._status.connects += 1
        self._status.become("connected")
        log.info("connected to %s (MQTT %s)", self._status.broker, name)
        self._answered.set()
        self._listener.up(self.link)

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, flags: paho.DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._trouble = from_reason(reason.value, str(reason))
        self._answered.set()
        self._ended.set()

    def _on_publish(self, _client: paho.Client, _data: Any, mid: int, reason: ReasonCode, _properties: Properties | None) -> None:
        if mid == self._goodbye:
            self._said_goodbye.set()
        if self.link is not None:
            self._listener.acknowledged(self.link, mid, reason.value)

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._listener.received(message.topic, bytes(message.payload))
