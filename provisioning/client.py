"""A short MQTT session of the fleet's own tools, under a certificate that is made for it and never kept."""

from __future__ import annotations

import queue
import secrets
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.reasoncodes import ReasonCode

from agent.identity.keys import Pair
from agent.mqtt import leave

ANSWER_WITHIN_S = 5.0


@dataclass(frozen=True)
class Endpoint:
    """Where the broker listens, and the CA in PEM that vouches for it."""

    host: str
    port: int
    ca: bytes


class NotAcceptedError(Exception):
    """The broker was there and did not take the client; the message says as much as is known."""


@dataclass(frozen=True)
class Heard:
    """A message that came."""

    topic: str
    payload: bytes
    retained: bool


class Session:
    """Connected. What comes is in `heard`; `ended` is set when the session is over."""

    def __init__(self, client: paho.Client) -> None:
        self._client = client
        self.heard: queue.Queue[Heard] = queue.Queue()
        self.ended = threading.Event()
        self._answers: queue.Queue[bool] = queue.Queue()
        client.on_message = lambda _c, _d, message: self.heard.put(Heard(message.topic, bytes(message.payload), message.retain))
        client.on_subscribe = lambda *_: self._answers.put(True)
        client.on_publish = lambda _c, _d, _m, reason, _p: self._answers.put(not reason.is_failure)

    def subscribe(self, topics: Sequence[str]) -> None:
        """Wait until the broker has answered. Raises queue.Empty."""
        self._client.subscribe([(topic, 1) for topic in topics])
        self._answers.get(timeout=ANSWER_WITHIN_S)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """At QoS 1; wait for the broker's answer: whether it says yes. Raises queue.Empty."""
        self._client.publish(topic, payload, 1, retain)
        return self._answers.get(timeout=ANSWER_WITHIN_S)

    def vanish(self) -> None:
        """End the connection without a word, as a power cut would: the broker publishes the will."""
        connection = self._client.socket()
        if isinstance(connection, socket.socket):
            connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def session(endpoint: Endpoint, pair: Pair | None, client_id: str = "", will: str = "") -> Iterator[Session]:
    """Connect under MQTT 5 with a clean start, and disconnect in the end. With `will`, a topic, one that a message is left for.

    Raises NotAcceptedError, and OSError where nobody listens.
    """
    client = paho.Client(
        CallbackAPIVersion.VERSION2, client_id or f"fleet-{secrets.token_hex(4)}", protocol=MQTTProtocolVersion.MQTTv5,
        reconnect_on_failure=False,
    )  # fmt: skip
    answers: queue.Queue[str] = queue.Queue()
    one = Session(client)

    def connected(_c: Any, _d: Any, _f: Any, reason: ReasonCode, _p: Any) -> None:
        answers.put(str(reason) if reason.is_failure else "")

    def ended(_c: Any, _d: Any, _f: Any, reason: ReasonCode, _p: Any) -> None:
        one.ended.set()
        answers.put(f"the connection was closed ({reason})")

    client.on_connect, client.on_disconnect = connected, ended
    client.tls_set_context(_context(endpoint.ca, pair))
    if will:
        client.will_set(will, b"will", 1, retain=True)
    try:
        client.connect(endpoint.host, endpoint.port, 30)
    except ssl.SSLError as error:
        raise NotAcceptedError(f"no TLS: {error.reason or error}") from error
    except ConnectionResetError as error:
        raise NotAcceptedError("the connection was closed") from error
    client.loop_start()
    try:
        try:
            refusal = answers.get(timeout=ANSWER_WITHIN_S)
        except queue.Empty:
            raise TimeoutError(f"{endpoint.host}:{endpoint.port} does not answer") from None
        if refusal:
            raise NotAcceptedError(refusal)
        yield one
    finally:
        leave(client)
        client.on_connect = client.on_disconnect = client.on_message = client.on_subscribe = client.on_publish = None


def _context(ca: bytes, pair: Pair | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca.decode())
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if pair is not None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "pair.pem"
            file.touch(0o600)
            file.write_bytes(pair.pem)
            context.load_cert_chain(file)
    return context
