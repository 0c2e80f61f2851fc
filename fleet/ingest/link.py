"""The hub's connection to the broker: a fixed client id and a session that the broker keeps."""

from __future__ import annotations

import logging
import secrets
import ssl
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent import wire
from agent.mqtt import leave
from fleet.ingest.client import BulkClient
from fleet.ingest.inbox import Inbox
from fleet.settings import BrokerSettings
from fleet.store import Message

log = logging.getLogger("fleet.ingest")

UNDER_WAY = 1000
"""Messages that the broker may send before they are acknowledged (MQTT 5's Receive Maximum)."""
SESSION_EXPIRY_S = 30 * 86400
UNSUPPORTED_VERSION = 0x84
AT_LEAST_ONCE = 1
"""The reason code of a subscription that the broker has taken as it was asked for."""
LIVE = "/up/live/"


class Link:
    """Brings messages into an inbox; acknowledges and publishes for any thread."""

    def __init__(self, settings: BrokerSettings) -> None:
        self.inbox = Inbox(2 * UNDER_WAY)
        self.fall_back = threading.Event()
        """Set when the broker speaks no MQTT 5: open again."""
        self.unheard = ""
        """What the broker does not let this hub listen to, and why; empty where it lets it."""
        self._settings = settings
        self.certificate_ends: float | None = None
        """When the broker's ends, of a connection with TLS: Unix time."""
        self._connection = 0
        self._failure = ""
        self._session = secrets.token_hex(8)
        self._state_topic = wire.TOPICS["hub-state"].of()
        self._leaving = False
        self._client = self._make(MQTTProtocolVersion.MQTTv311 if settings.version == "3.1.1" else MQTTProtocolVersion.MQTTv5)

    @property
    def connected(self) -> bool:
        """Whether the broker has taken this session."""
        return self._client.is_connected()

    def open(self) -> None:
        """Connect, and again whenever the connection ends."""
        settings = self._settings
        if self._client.protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0 if settings.share else SESSION_EXPIRY_S
            properties.ReceiveMaximum = UNDER_WAY
            self._client.connect_async(settings.host, settings.port, 30, clean_start=bool(settings.share), properties=properties)
        else:
            self._client.connect_async(settings.host, settings.port, 30)
        self._client.loop_start()

    def speak_311(self) -> None:
        """Connect anew at MQTT 3.1.1."""
        self.fall_back.clear()
        leave(self._client)
        log.info("the broker does not speak MQTT 5; using 3.1.1")
        self._client = self._make(MQTTProtocolVersion.MQTTv311)
        self.open()

    def close(self) -> None:
        """Say goodbye and disconnect."""
        self._leaving = True
        self.inbox.close()
        if self.connected:
            self._client.publish(self._state_topic, self._state("offline"), 1, retain=True).wait_for_publish(1.0)
        leave(self._client)

    def acknowledge(self, messages: Iterable[Message]) -> None:
        """Tell the broker that these are stored. Those of an earlier connection come again anyway."""
        self._client.acknowledge([message.mid for message in messages if message.qos and message.connection == self._connection])

    def subscribe(self) -> None:
        """Ask for everything; what is refused shows in `unheard`."""
        self._client.subscribe([(topic, 1) for topic in subscriptions(self._settings.share)])

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> paho.MQTTMessageInfo:
        """At QoS 1."""
        return self._client.publish(topic, payload, 1, retain)

    def _make(self, protocol: MQTTProtocolVersion) -> BulkClient:
        settings = self._settings
        clean = None if protocol == MQTTProtocolVersion.MQTTv5 else bool(settings.share)
        client = BulkClient(CallbackAPIVersion.VERSION2, settings.client_id, clean, protocol=protocol, manual_ack=True)
        if settings.username:
            client.username_pw_set(settings.username, settings.secret())
        if settings.tls:
            client.tls_set_context(settings.tls.context())
        client.will_set(self._state_topic, self._state("offline"), 1, retain=True)
        client.reconnect_delay_set(1, 30)
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publication = self._on_publication
        client.on_subscribe = self._on_subscribe
        return client

    def _state(self, state: str) -> bytes:
        return wire.encode(wire.HubState.model_validate({"state": state, "session": self._session, "at": time.time()}))

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: paho.ConnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if reason.is_failure:
            log.error("the broker refused: %s (reason code 0x%02x)", reason, reason.value)
            if reason.value == UNSUPPORTED_VERSION and self._settings.version == "auto":
                self.fall_back.set()
            return
        self._failure = ""
        self._connection += 1
        shown = client.socket().getpeercert() if self._settings.tls else None  # type: ignore[union-attr]
        self.certificate_ends = ssl.cert_time_to_seconds(str(shown["notAfter"])) if shown else None
        self.subscribe()
        client.publish(self._state_topic, self._state("online"), 1, retain=True)
        log.info("connected to %s:%d", self._settings.host, self._settings.port)

    def _on_connect_fail(self, _client: paho.Client, _data: Any) -> None:
        """paho calls it while it handles what has gone wrong."""
        failure = str(sys.exc_info()[1])
        if failure != self._failure:
            log.error("no connection to %s:%d: %s; trying again", self._settings.host, self._settings.port, failure)
        self._failure = failure

    def _on_disconnect(
        self, _client: paho.Client, _data: Any, _flags: paho.DisconnectFlags, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        if not self._leaving:
            log.warning("the connection to the broker ended: %s; trying again", reason)

    def _on_subscribe(self, _client: paho.Client, _data: Any, _mid: int, reasons: list[ReasonCode], _properties: Properties | None) -> None:
        topics = zip(subscriptions(self._settings.share), reasons, strict=False)
        refused = [f"{topic} ({reason})" for topic, reason in topics if reason.value != AT_LEAST_ONCE]
        self.unheard = f"the broker refuses this hub to listen to {', '.join(refused)}: see its access rules" if refused else ""
        if refused:
            log.error("%s", self.unheard)

    def _on_publication(self, topic: str, payload: bytes, retained: bool, number: int, qos: int) -> None:
        if topic == self._state_topic:
            self._client.ack(number, qos)
            self._contradict(payload)
        elif qos or LIVE not in topic:
            self.inbox.put(Message(topic, payload, time.time(), retained, self._connection, number, qos))

    def _contradict(self, payload: bytes) -> None:
        """Another hub has gone, and with it the word that there is one; this one still is."""
        if b'"offline"' in payload and self._session.encode() not in payload and not self._leaving:
            self._client.publish(self._state_topic, self._state("online"), 1, retain=True)


def subscriptions(share: str) -> list[str]:
    """What a hub listens to. Of a shared one each message goes to one of the hubs that share it; retained ones come only to a plain one."""
    status, everything = wire.TOPICS["status"].filter(), "almena/1/+/up/#"
    if not share:
        return [status, everything]
    return [status, wire.TOPICS["reported"].filter(), wire.TOPICS["hub-state"].of(), f"$share/{share}/{everything}"]
