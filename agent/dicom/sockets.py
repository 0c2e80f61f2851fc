"""Connections of callers whom nobody has to trust: bounded in number, in bytes, and in time (pynetdicom bounds none of these)."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
import ssl
import sys
import threading
import time
from typing import Any, cast

from pynetdicom.fsm import StateMachine
from pynetdicom.pdu import A_ABORT_RQ, P_DATA_TF
from pynetdicom.pdu_items import PresentationDataValueItem
from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from agent.dicom.counters import Counters
from agent.dicom.reading import place

log = logging.getLogger(__name__)

MAX_PDU = 1024 * 1024
"""Bytes of a PDU that callers may send: large ones cost less for each byte. What they say is more than this ends the connection."""
PDU_S = 60.0
"""A PDU that is not complete by then was sent to hold the connection."""
HANDSHAKE_S = 10.0
PACE_S = 0.005
"""Between two looks of an association's threads for something to do. pynetdicom's own pace, a millisecond, takes a twentieth of a core for
each association that is open."""
P_DATA = 0x04
HEAD = 6
"""Type and length of a PDU."""
DATA_PDU, INVALID_PDU = "Evt10", "Evt19"
"""The events of a P-DATA-TF PDU, and of an unrecognised or invalid one (PS3.8, table 9-10)."""
BY_PROVIDER, INVALID_PARAMETER = 0x02, 0x06
"""Source and reason of an A-ABORT (PS3.8, 9.3.8)."""


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
        self._room = memoryview(bytearray(MAX_PDU + HEAD))
        self.last_byte_ns = time.monotonic_ns()

    def taken(self) -> None:
        """The message that came was taken; the next may begin."""
        self._received = 0

    def recv(self, nr_bytes: int) -> memoryview:
        """So many bytes, or fewer where the peer is gone, until the next call. Raises OSError for too many, and for too slow ones."""
        self._received += nr_bytes
        if nr_bytes > len(self._room) or self._received > self._limits.message_bytes:
            self._limits.counters.refused("too-large")
            raise OSError("a PDU or a message is larger than allowed")
        there, deadline = 0, time.monotonic() + PDU_S
        while there < nr_bytes:
            count = self._connection.recv_into(self._room[there:nr_bytes])
            if not count:
                return self._room[:there]
            there += count
            if time.monotonic() > deadline:
                raise TimeoutError("a PDU came too slowly")
        self.last_byte_ns = time.monotonic_ns()
        return self._room[:nr_bytes]


class Pace(threading.Event):
    """What an association's thread waits for each time round: that nobody holds it up, and never less than `PACE_S`."""

    def __init__(self) -> None:
        super().__init__()
        self.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep first, so that whoever holds it up in the meantime is not overlooked."""
        time.sleep(PACE_S)
        return super().wait(timeout)


class ToldMachine(StateMachine):
    """The state machine of an association: a PDU that cannot be understood is told, counted, and ends that association alone.

    In pynetdicom's own, some of them end the thread that reads by an error, and the caller waits for an answer.
    """

    def __init__(self, dul: Any, counters: Counters) -> None:
        super().__init__(dul)
        self._counters = counters

    def do_action(self, event: str) -> None:
        """As the standard says; whatever it cannot do is answered by an A-ABORT."""
        if event == INVALID_PDU:
            self._tell("it is none, or none that was expected")
        try:
            super().do_action(event)
        except Exception as error:  # noqa: BLE001 - the supervisor of foreign PDUs; the message may quote them
            self._tell(f"{type(error).__name__} at {place(error)}")
            abort = A_ABORT_RQ()
            abort.source, abort.reason_diagnostic = BY_PROVIDER, INVALID_PARAMETER
            self.dul.kill_dul()
            if self.dul.socket:
                self.dul.socket.send(abort.encode())

    def _tell(self, why: str) -> None:
        self._counters.refused("pdu")
        log.warning("an association is aborted: a PDU cannot be understood: %s", why)


def data_pdu(pdu: bytearray) -> P_DATA_TF:
    """A P-DATA-TF PDU (PS3.8, 9.3.5) whose values are views of its bytes; pynetdicom's own decoding copies them four times.

    Raises ValueError.
    """
    found, rest = P_DATA_TF(), memoryview(pdu)[HEAD:]
    while rest:
        ends = 4 + int.from_bytes(rest[:4], "big")
        if not HEAD <= ends <= len(rest):
            raise ValueError("an item is empty, or longer than its PDU")
        item: Any = PresentationDataValueItem()
        item.presentation_context_id, item.presentation_data_value = rest[4], rest[5:ends]
        found.presentation_data_value_items.append(item)
        rest = rest[ends:]
    return found


class BoundedHandler(RequestHandler):
    """Brings a connection up in a thread of its own, TLS included, so that a silent caller keeps nobody else waiting."""

    server: BoundedServer

    def setup(self) -> None:
        self.request.settimeout(HANDSHAKE_S)
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
            self.server.greeted.discard(self.request)
        self.request.settimeout(self.server.limits.idle_s)

    def _create_association(self) -> Any:
        association: Any = super()._create_association()
        association.reader = BoundedReader(self.request, self.server.limits)
        association.dul.socket.recv = association.reader.recv
        decode = association.dul._decode_pdu
        association.dul._decode_pdu = lambda pdu: (data_pdu(pdu), DATA_PDU) if pdu[0] == P_DATA else decode(pdu)
        association.dul._run_loop_delay, association._reactor_checkpoint = PACE_S, Pace()
        association.dul.state_machine = ToldMachine(association.dul, self.server.limits.counters)
        return association


class BoundedServer(ThreadedAssociationServer):
    """Takes connections of allowed addresses, up to twice as many as associations: the rest learn by a rejection to come again."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, limits: Limits, *arguments: Any, **options: Any) -> None:
        self.limits = limits
        self.greeted: set[Any] = set()
        """Connections in the middle of the handshake of TLS."""
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
        if sum(not _over(association) for association in self.active_associations) + len(self.greeted) >= 2 * self.limits.connections:
            self.limits.counters.refused("flood")
            return False
        if isinstance(request, ssl.SSLSocket):
            self.greeted.add(request)
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that could not be brought up."""
        self.greeted.discard(request)
        self.limits.counters.refused("connection")
        log.warning("a connection could not be brought up: %s", sys.exc_info()[1])
        with contextlib.suppress(OSError):
            request.close()


def _over(association: Any) -> bool:
    """Whether its connection is gone. One that asked for nothing before is woken: pynetdicom lets it wait for that, and count, to its
    timeout."""
    dul = association.dul
    over = dul.ident is not None and not (dul.is_alive() and dul.socket.socket)
    if over and association.requestor.primitive is None:
        dul.to_user_queue.put(None)
    return over
