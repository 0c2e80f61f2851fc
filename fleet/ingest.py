"""The hub's ingest: takes what devices send, stores it exactly once, and acknowledges after the commit.

    broker ─► network thread ─► queue ─► one batch, one transaction ─► PUBACK to the broker, `down/ack` to the devices

Killed at any moment, it loses nothing: the broker keeps its session and sends again what has no PUBACK, devices send again what has no ack.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import re
import secrets
import signal
import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent import logs, wire
from fleet.intervals import Intervals
from fleet.store import Store

log = logging.getLogger("fleet.ingest")

BATCH = 500
UNDER_WAY = 1000
"""Messages that the broker may send before they are acknowledged (MQTT 5's Receive Maximum)."""
SESSION_EXPIRY_S = 30 * 86400
UNSUPPORTED_VERSION = 0x84
PURGE_EVERY_S = 10.0
LANES = ("event", "audit", "loss", "clock", "telemetry")
_ID = re.compile(rb'"id"\s*:\s*"(?P<device>[a-z0-9-]{1,63})/(?P<spool>[0-9a-f]{16})/(?P<seq>[1-9][0-9]{0,17})"')


@dataclass(frozen=True)
class Message:
    """As it came; `connection` numbers the connection that its packet id belongs to."""

    connection: int
    mid: int
    qos: int
    topic: str
    payload: bytes


@dataclass
class Outcome:
    """What is to be acknowledged for one spool."""

    stored: Intervals = field(default_factory=Intervals)
    refused: dict[int, str] = field(default_factory=dict)


class Batch:
    """Takes messages into the store within one transaction, and remembers what to acknowledge."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._outcomes: dict[tuple[str, str], Outcome] = defaultdict(Outcome)

    def take(self, topic: str, payload: bytes, now: float) -> None:
        """Store a message, or keep it among the dead letters."""
        try:
            self._take(wire.parse(topic), topic, payload, now)
        except wire.WireError as error:
            self._refuse(topic, payload, str(error), now)
        except (OverflowError, ValueError):
            self._refuse(topic, payload, "a number is out of bounds", now)

    def acks(self) -> list[tuple[str, wire.Ack]]:
        """Device and acknowledgement for each spool that was touched. Call after the commit."""
        found = []
        for (device, spool), outcome in self._outcomes.items():
            upto = self._store.ranges(device, spool).upto
            above = tuple((max(low, upto + 1), high) for low, high in outcome.stored if high > upto)
            refused = tuple(wire.Refusal(seq=seq, reason=reason) for seq, reason in outcome.refused.items())
            found.append((device, wire.Ack(spool=spool, upto=upto, ranges=above, refused=refused)))
        return found

    def _take(self, address: wire.Address, topic: str, payload: bytes, now: float) -> None:
        name = address.topic.name
        if name in LANES:
            envelope = wire.decode_event(payload)
            _belongs(address, envelope)
            self._store.add(name, envelope, payload, now)
            if name == "audit" and (identity := _erased(envelope)):
                self._store.erase(envelope.device, identity)
            self._outcomes[envelope.device, envelope.spool].stored.add(envelope.seq)
        elif name == "status" and payload:
            self._status(address.device, payload, now)
        elif name == "reported" and payload:
            wire.decode(wire.Reported, payload)
            self._store.reported(address.device, payload)
        elif name == "reply":
            wire.decode(wire.Reply, payload)
            self._store.reply(address.device, address.id, payload, now)

    def _status(self, device: str, payload: bytes, now: float) -> None:
        said: wire.Birth | wire.Will
        try:
            said = wire.decode(wire.Birth, payload)
        except wire.WireError:
            said = wire.decode(wire.Will, payload)
        self._store.status(device, said.state, said.session, payload, now)

    def _refuse(self, topic: str, payload: bytes, reason: str, now: float) -> None:
        """Tell the device too, if the message says which row it is, and is the device's own."""
        log.warning("%s is refused: %s", topic, reason)
        self._store.refuse(topic, reason, payload, now)
        found = _ID.search(payload[:1024])
        if found and topic.split("/")[2] == found["device"].decode():
            self._outcomes[found["device"].decode(), found["spool"].decode()].refused[int(found["seq"])] = reason[:200]


def _belongs(address: wire.Address, envelope: wire.Envelope[dict[str, Any]]) -> None:
    """The topic is what the broker's access rules check; a message must not claim another device's name."""
    if envelope.device != address.device:
        raise wire.WireError("the envelope names another device than the topic")
    if address.topic.name == "event":
        if (envelope.stream, envelope.kind) != (address.stream, address.kind):
            raise wire.WireError("the envelope names another stream or kind than the topic")
    elif envelope.kind != address.topic.name:
        raise wire.WireError(f"a message of kind {envelope.kind!r} does not belong there")


def _erased(envelope: wire.Envelope[dict[str, Any]]) -> str | None:
    """The identity that the device says it has erased."""
    said, detail = envelope.data, envelope.data.get("detail")
    identity = detail.get("id") if isinstance(detail, dict) else None
    done = said.get("action") == wire.IDENTITY_ERASE and said.get("outcome") == "done"
    return identity if done and isinstance(identity, str) else None


class Ingest:
    """One client of the broker with a fixed id and a session that the broker keeps, and one thread that stores."""

    def __init__(self, store_path: Path, options: argparse.Namespace) -> None:
        self._path = store_path
        self._options = options
        self._queue: queue.Queue[Message] = queue.Queue()
        self._stop = threading.Event()
        self._connection = 0
        self._purged = float("-inf")
        self._session = secrets.token_hex(8)
        self._state_topic = wire.TOPICS["hub-state"].of()
        self._fall_back = threading.Event()
        self._client = self._make(MQTTProtocolVersion.MQTTv311 if options.mqtt == "3.1.1" else MQTTProtocolVersion.MQTTv5)

    def run(self) -> int:
        """Until `stop`."""
        store = Store(self._path)
        try:
            self._open()
            while not self._stop.is_set():
                self._round(store)
                if self._fall_back.is_set():
                    self._fall_back.clear()
                    self._close()
                    log.info("the broker does not speak MQTT 5; using 3.1.1")
                    self._client = self._make(MQTTProtocolVersion.MQTTv311)
                    self._open()
        finally:
            if self._client.is_connected():
                self._client.publish(self._state_topic, self._state("offline"), 1, retain=True).wait_for_publish(1.0)
            self._close()
            store.close()
        return 0

    def stop(self) -> None:
        """End `run` after the batch in hand; safe in a signal handler."""
        self._stop.set()

    def _make(self, protocol: MQTTProtocolVersion) -> paho.Client:
        options = self._options
        five = protocol == MQTTProtocolVersion.MQTTv5
        clean = None if five else False
        client = paho.Client(CallbackAPIVersion.VERSION2, options.client_id, clean, protocol=protocol, manual_ack=True)
        if options.username:
            client.username_pw_set(options.username, options.password_file.read_text().strip() if options.password_file else None)
        if options.ca_file or options.cert_file:
            client.tls_set(options.ca_file, options.cert_file, options.key_file)
        client.will_set(self._state_topic, self._state("offline"), 1, retain=True)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _open(self) -> None:
        options = self._options
        if self._client.protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
            properties.ReceiveMaximum = UNDER_WAY
            self._client.connect_async(options.host, options.port, 30, clean_start=False, properties=properties)
        else:
            self._client.connect_async(options.host, options.port, 30)
        self._client.loop_start()

    def _close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _state(self, state: str) -> bytes:
        return wire.encode(wire.HubState.model_validate({"state": state, "session": self._session, "at": time.time()}))

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: paho.ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            log.error("the broker refused: %s (reason code 0x%02x)", reason, reason.value)
            if reason.value == UNSUPPORTED_VERSION and self._options.mqtt == "auto":
                self._fall_back.set()
            return
        self._connection += 1
        client.subscribe([(f"{wire.TOPICS['status'].filter()}", 1), ("almena/1/+/up/#", 1)])
        client.publish(self._state_topic, self._state("online"), 1, retain=True)
        log.info("connected to %s:%d", self._options.host, self._options.port)

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, _flags: paho.DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if not self._stop.is_set():
            log.warning("the connection to the broker ended: %s; trying again", reason)

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        self._queue.put(Message(self._connection, message.mid, message.qos, message.topic, bytes(message.payload)))

    def _round(self, store: Store) -> None:
        """One batch: store, commit, acknowledge."""
        messages = self._next()
        if not messages:
            return
        batch = Batch(store)
        store.begin()
        try:
            now = time.time()
            for message in messages:
                batch.take(message.topic, message.payload, now)
            if time.monotonic() - self._purged > PURGE_EVERY_S:
                store.purge(now)
                self._purged = time.monotonic()
            store.commit()
        except BaseException:
            store.rollback()
            raise
        for message in messages:
            if message.qos and message.connection == self._connection:
                self._client.ack(message.mid, message.qos)
        for device, ack in batch.acks():
            self._client.publish(wire.TOPICS["ack"].of(device), wire.encode(ack), 1)

    def _next(self) -> list[Message]:
        messages = []
        try:
            messages.append(self._queue.get(timeout=0.2))
            while len(messages) < BATCH:
                messages.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return messages


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m fleet.ingest", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--store", type=Path, default=Path("almena-hub.sqlite"), help="SQLite file (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="the broker (default: %(default)s)")
    parser.add_argument("--port", type=int, default=1883, help="its port (default: %(default)s)")
    parser.add_argument("--mqtt", choices=("auto", "5", "3.1.1"), default="auto", help="version of MQTT (default: %(default)s)")
    parser.add_argument("--client-id", default="almena-hub", help="fixed id of the session that the broker keeps (default: %(default)s)")
    parser.add_argument("--username")
    parser.add_argument("--password-file", type=Path, help="file with the password; none on the command line, where others could read it")
    parser.add_argument("--ca-file", help="CA certificates in PEM; turns TLS on")
    parser.add_argument("--cert-file", help="client certificate in PEM; turns TLS on")
    parser.add_argument("--key-file", help="its private key")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    logs.setup("ingest")
    ingest = Ingest(options.store, options)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ingest.stop())
    return ingest.run()


if __name__ == "__main__":
    sys.exit(main())
