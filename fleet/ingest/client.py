"""paho's client for many small messages: taken from the network at once, read for what the ingest needs, acknowledged at once.

paho asks the system four times for each message, makes objects of all that may be in it, and sends each acknowledgement by itself; that was
half of what a stored event costs.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MessageType, MQTTErrorCode, MQTTProtocolVersion

AT_ONCE = 1 << 16


class BulkClient(paho.Client):
    """What it overrides and calls of paho's own parts (their names begin with `_`) is named here alone."""

    on_publication: Callable[[str, bytes, bool, int, int], None]
    """In the place of `on_message`: topic, payload, whether it was retained, packet id, QoS."""

    def acknowledge(self, numbers: Sequence[int]) -> None:
        """PUBACK for each packet id, in one write (MQTT 3.1.1 and 5, section 3.4)."""
        if numbers:
            self._packet_queue(MessageType.PUBACK, b"".join(struct.pack("!BBH", MessageType.PUBACK, 2, number) for number in numbers), 0, 1)

    def loop_read(self, max_packets: int = 1) -> MQTTErrorCode:
        """All that was taken."""
        code = super().loop_read(max_packets)
        while code == MQTTErrorCode.MQTT_ERR_SUCCESS and self._sock is not None and self._sock.pending():  # type: ignore[attr-defined]
            code = super().loop_read(max_packets)
        return code

    def _create_socket(self) -> Any:
        return _Bulk(super()._create_socket())  # type: ignore[arg-type]

    def _handle_publish(self) -> MQTTErrorCode:
        """MQTT 3.1.1 and 5, section 3.3."""
        packet, flags = self._in_packet["packet"], self._in_packet["command"]
        qos, number = flags >> 1 & 3, 0
        try:
            at = 2 + int.from_bytes(packet[:2], "big")
            topic = packet[2:at].decode()
            if qos:
                number = int.from_bytes(packet[at : at + 2], "big")
                at += 2
            if self.protocol == MQTTProtocolVersion.MQTTv5:
                at = _behind_properties(packet, at)
        except (IndexError, UnicodeDecodeError):
            return MQTTErrorCode.MQTT_ERR_PROTOCOL
        self.on_publication(topic, bytes(packet[at:]), bool(flags & 1), number, qos)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


class _Bulk:
    """A socket that takes what is there, and hands it out in pieces."""

    def __init__(self, connection: socket.socket | ssl.SSLSocket) -> None:
        self._connection = connection
        self._taken = b""
        self._at = 0

    def recv(self, most: int) -> bytes:
        """As a socket's."""
        if self._at == len(self._taken):
            self._taken, self._at = self._connection.recv(AT_ONCE), 0
        piece = self._taken[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def pending(self) -> int:
        """Bytes that were taken, and have not been handed out."""
        return len(self._taken) - self._at + (self._connection.pending() if isinstance(self._connection, ssl.SSLSocket) else 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def _behind_properties(packet: bytearray, at: int) -> int:
    """Their length is a variable byte integer (MQTT 5, section 1.5.5). Raises IndexError."""
    length = shift = 0
    while True:
        byte = packet[at]
        length |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return at + length
