"""Connections of callers whom nobody has to trust: bounded in number, in bytes, and in time (pynetdicom bounds none of these)."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import ssl
import sys
import time
from typing import Any, cast

from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from agent.dicom.counters import Counters

log = logging.getLogger(__name__)

MAX_PDU = 256 * 1024
"""Bytes of a PDU that callers may send: large ones cost less for each byte. What they say is more than this ends the connection."""
PDU_S = 60.0
"""A PDU that is not complete by then was sent to hold the connection."""
HANDSHAKE_S = 10.0


class Limits:
    """What one server allows."""

    def __init__(self, connections: int, idle_s: float, message_bytes: int, networks: tuple[str, ...], counters: Counters) -> None:
        self.connections = connections
        self.idle_s = idle_s
        self.message_bytes = message_bytes
        self.networks = networks
        self.counters = counters


def allows(networks: tuple[str, ...], address: str) -> bool:
    """Whether somebody at this address may call; without networks this machine alone."""
    caller = ipaddress.ip_address(address.partition("%")[0])
    caller = getattr(caller, "ipv4_mapped", None) or caller
    return caller.is_loopback if not networks else any(caller in ipaddress.ip_network(network, strict=False) for network in networks)


class BoundedReader:
    """Takes the place of a connection's `recv`: reads no PDU and no message that is larger than allowed, and waits for none for ever."""

    def __init__(self, connection: socket.socket, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._received = 0
        self.last_byte_ns = time.monotonic_ns()

    def taken(self) -> None:
        """The message that came was taken; the next may begin."""
        self._received = 0

    def recv(self, nr_bytes: int) -> bytearray:
        """So many bytes, or fewer where the peer is gone. Raises OSError for too many, and for too slow ones."""
        self._received += nr_bytes
        if nr_bytes > MAX_PDU + 6 or self._received > self._limits.message_bytes:
            self._limits.counters.refused("too-large")
            raise OSError("a PDU or a message is larger than allowed")
        data = bytearray(nr_bytes)
        view, there, deadline = memoryview(data), 0, time.monotonic() + PDU_S
        while there < nr_bytes:
            count = self._connection.recv_into(view[there:])
            if not count:
                view.release()
                del data[there:]
                return data
            there += count
            if time.monotonic() > deadline:
                raise TimeoutError("a PDU came too slowly")
        self.last_byte_ns = time.monotonic_ns()
        return data


class BoundedHandler(RequestHandler):
    """Brings a connection up in a thread of its own, TLS included, so that a silent caller keeps nobody else waiting."""

    server: BoundedServer

    def setup(self) -> None:
        self.request.settimeout(HANDSHAKE_S)
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        self.request.settimeout(self.server.limits.idle_s)

    def _create_association(self) -> Any:
        association: Any = super()._create_association()
        association.reader = BoundedReader(self.request, self.server.limits)
        association.dul.socket.recv = association.reader.recv
        return association


class BoundedServer(ThreadedAssociationServer):
    """Takes connections of allowed addresses, up to twice as many as associations: the rest learn by a rejection to come again."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, limits: Limits, *arguments: Any, **options: Any) -> None:
        self.limits = limits
        super().__init__(*arguments, **options)
        self.RequestHandlerClass = BoundedHandler

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept; with TLS the handshake follows in the handler's thread."""
        connection, address = cast(socket.socket, self.socket).accept()
        if self.ssl_context:
            connection = self.ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether it is answered at all."""
        if not allows(self.limits.networks, client_address[0]):
            self.limits.counters.refused("address")
            return False
        if len(self.active_associations) >= 2 * self.limits.connections:
            self.limits.counters.refused("flood")
            return False
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that could not be brought up."""
        self.limits.counters.refused("connection")
        log.warning("a connection could not be brought up: %s", sys.exc_info()[1])
        with contextlib.suppress(OSError):
            request.close()
