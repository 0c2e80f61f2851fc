"""What can be wrong between the agent and its broker, in words that say what to do."""

from __future__ import annotations

import errno
import socket
import ssl
from dataclasses import dataclass

from agent.errors import UnreadableError
from agent.settings import MqttSettings


@dataclass(frozen=True)
class Trouble:
    """`code` is stable, `message` is for people and holds no secret, `reason_code` is the broker's (MQTT 5, clause 2.4) if it gave one."""

    code: str
    message: str
    reason_code: int | None = None

    def __str__(self) -> str:
        number = f", reason code 0x{self.reason_code:02x}" if self.reason_code is not None else ""
        return f"{self.message} ({self.code}{number})"


UNSUPPORTED_VERSION = 0x84

_REASONS = {
    0x80: ("MQTT_UNSPECIFIED", "the broker refused without saying why; its log may say more"),
    0x81: ("MQTT_MALFORMED", "the broker could not read a packet; its log may say more"),
    0x82: ("MQTT_PROTOCOL", "the broker saw a protocol error; its log may say more"),
    UNSUPPORTED_VERSION: ("MQTT_VERSION", "the broker does not speak this version of MQTT; set mqtt.version to auto"),
    0x85: ("MQTT_CLIENT_ID", "the broker does not accept the device's name as client id; change device.name or the broker's rules"),
    0x86: ("MQTT_BAD_PASSWORD", "the broker refused user name or password; check mqtt.username and mqtt.password_file"),
    0x87: (
        "MQTT_NOT_AUTHORISED",
        "the broker refused this client; check mqtt.username, mqtt.password_file, the client certificate and the broker's access rules",
    ),
    0x88: ("MQTT_UNAVAILABLE", "the broker says that it is unavailable"),
    0x89: ("MQTT_BUSY", "the broker says that it is busy"),
    0x8A: ("MQTT_BANNED", "the broker has banned this client; ask its operator"),
    0x8B: ("MQTT_SHUTDOWN", "the broker is shutting down"),
    0x8D: ("MQTT_KEEPALIVE", "the connection was silent for too long; the network may be down"),
    0x8E: (
        "MQTT_TAKEN_OVER",
        "another client connected with this device's name; give each device its own device.name, or, if its identity was copied, revoke it",
    ),
    0x93: ("MQTT_RECEIVE_MAXIMUM", "the broker got more messages at once than it takes; lower mqtt.inflight"),
    0x95: ("MQTT_PACKET_TOO_LARGE", "the broker got a packet that is larger than it takes; raise its limit"),
    0x97: ("MQTT_QUOTA", "the broker's quota for this client is used up; raise it"),
    0x98: ("MQTT_ADMINISTRATIVE", "the broker's operator closed the connection"),
    0x9C: ("MQTT_MOVED", "the broker says to use another server; change mqtt.host"),
    0x9D: ("MQTT_MOVED", "the broker says to use another server; change mqtt.host"),
    0x9F: ("MQTT_RATE", "the broker says that connections come too fast"),
}


def from_reason(value: int, name: str) -> Trouble:
    """The trouble behind a reason code of CONNACK or DISCONNECT."""
    code, message = _REASONS.get(value, ("MQTT_REFUSED", f"the broker refused: {name}"))
    return Trouble(code, message, value)


def from_exception(error: Exception, settings: MqttSettings) -> Trouble:
    """The trouble behind a connection that could not be opened."""
    where = f"{settings.host}:{settings.port}"
    if isinstance(error, UnreadableError):
        return Trouble("MQTT_FILE_UNREADABLE", f"no session with {where}: {error}")
    if isinstance(error, socket.gaierror):
        return Trouble("MQTT_HOST_NOT_FOUND", f"there is no host {settings.host!r}; check mqtt.host and the name server")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Trouble(
            "MQTT_TLS_CERTIFICATE",
            f"the certificate of {where} is not accepted: {error.verify_message}; check mqtt.tls.ca_file, mqtt.host and the clock",
        )
    if isinstance(error, ssl.SSLError):
        reason = error.reason or error
        return Trouble("MQTT_TLS", f"no TLS with {where}: {reason}; check that the port speaks TLS, and the files in mqtt.tls")
    if isinstance(error, OSError) and error.errno in (errno.ENOKEY, errno.EKEYREJECTED):
        return Trouble("MQTT_IDENTITY", f"no session with {where}: {error.strerror}")
    if isinstance(error, ConnectionRefusedError):
        return Trouble("MQTT_CONNECTION_REFUSED", f"nothing listens at {where}; check that the broker runs, mqtt.host and mqtt.port")
    if isinstance(error, TimeoutError):
        return Trouble("MQTT_TIMEOUT", f"{where} does not answer; check the network and mqtt.port")
    return Trouble("MQTT_UNREACHABLE", f"{where} cannot be reached: {getattr(error, 'strerror', None) or error}")


def before_answer(settings: MqttSettings) -> Trouble:
    """The trouble when the broker closes the connection before its CONNACK."""
    where = f"{settings.host}:{settings.port}"
    if settings.tls is None:
        return Trouble(
            "MQTT_CLOSED", f"{where} closed the connection without an answer; it may expect TLS (mqtt.tls) or mqtt.version 3.1.1"
        )
    return Trouble(
        "MQTT_TLS_CLIENT_CERTIFICATE",
        f"{where} closed the TLS connection before it answered; it may want another client certificate (mqtt.tls.cert_file);"
        " one that was revoked is replaced by `almena join` with a new token",
    )


LOST = Trouble("MQTT_CONNECTION_LOST", "the connection to the broker was lost; trying again")
LOST_SOON = Trouble(
    "MQTT_CONNECTION_LOST",
    "the connection was lost soon after it was made; trying again; if this goes on, another client may be using this device's name",
)
