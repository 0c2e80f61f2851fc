"""One thread that carries the traffic of many MQTT clients.

paho gives each client a thread, and waits in it with select(2), which takes no file descriptor above 1023: a process with the outboxes of
more than about sixty devices has more open files than that.
"""

from __future__ import annotations

import logging
import select
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import paho.mqtt.client as paho

log = logging.getLogger(__name__)

DUTIES_S = 1.0
"""Between two looks at keep-alives."""
LEAVE_WITHIN_S = 2.0


class SharedLoop:
    """See agent.mqtt.Network."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._clients: dict[int, paho.Client] = {}
        self._lock = threading.Lock()
        self._gone: dict[paho.Client, threading.Event] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End it; all clients have left."""
        self._stop.set()
        self._thread.join()
        self._epoll.close()

    def carry(self, client: paho.Client) -> None:
        """See agent.mqtt.Network."""
        connection: Any = client.socket()
        if connection is None:
            return
        with self._lock:
            self._clients[connection.fileno()] = client
            self._gone[client] = threading.Event()
        client.on_socket_close = self._closed
        client.on_socket_register_write = self._wants_to_write
        client.on_socket_unregister_write = self._has_written
        self._epoll.register(connection.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def leave(self, client: paho.Client) -> None:
        """See agent.mqtt.Network."""
        client.disconnect()
        with self._lock:
            gone = self._gone.get(client)
        if gone is not None and not gone.wait(LEAVE_WITHIN_S):
            connection: Any = client.socket()
            if connection is not None:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            gone.wait(LEAVE_WITHIN_S)
        with self._lock:
            self._gone.pop(client, None)

    def mute(self, client: paho.Client) -> None:
        """Leave its connection as it is, and neither read nor write there any more."""
        connection: Any = client.socket()
        if connection is not None:
            with self._lock:
                self._clients.pop(connection.fileno(), None)
            with suppress(OSError, ValueError):
                self._epoll.unregister(connection.fileno())

    def unmute(self, client: paho.Client) -> None:
        """Read and write again."""
        with self._lock:  # which the network thread takes before it closes a connection, see `_closed`
            connection: Any = client.socket()
            if connection is not None:
                self._clients[connection.fileno()] = client
                with suppress(FileExistsError):
                    self._epoll.register(connection.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _run(self) -> None:
        duties = time.monotonic()
        while not self._stop.is_set():
            for number, happened in self._epoll.poll(DUTIES_S):
                client = self._clients.get(number)
                if client is not None:
                    self._serve(client, happened)
            if time.monotonic() - duties >= DUTIES_S:
                duties = time.monotonic()
                for client in list(self._clients.values()):
                    client.loop_misc()

    def _serve(self, client: paho.Client, happened: int) -> None:
        try:
            if happened & select.EPOLLOUT:
                client.loop_write()
            if happened & ~select.EPOLLOUT:
                client.loop_read()
                while (connection := client.socket()) is not None and getattr(connection, "pending", int)():
                    client.loop_read()
        except Exception:  # a supervisor: one client must not end the thread of all
            log.exception("a connection failed")
            client.disconnect()

    def _closed(self, client: paho.Client, _data: Any, connection: Any) -> None:
        with self._lock:
            self._clients.pop(connection.fileno(), None)
            gone = self._gone.get(client)
        with suppress(OSError):
            self._epoll.unregister(connection.fileno())
        if gone is not None:
            gone.set()

    def _wants_to_write(self, _client: paho.Client, _data: Any, connection: Any) -> None:
        with suppress(OSError, ValueError, AttributeError):  # it has just been closed, and paho may give None in its place
            self._epoll.modify(connection.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _has_written(self, client: paho.Client, data: Any, connection: Any) -> None:
        """Another thread may have queued a packet since paho looked, and believes that it is being waited for."""
        with suppress(OSError, ValueError, AttributeError):
            self._epoll.modify(connection.fileno(), select.EPOLLIN)
        if client.want_write():
            self._wants_to_write(client, data, connection)


class Cable:
    """The shared loop as one client has it: it can be pulled out, and nobody is told."""

    def __init__(self, loop: SharedLoop) -> None:
        self._loop = loop
        self._client: paho.Client | None = None

    def carry(self, client: paho.Client) -> None:
        """See agent.mqtt.Network."""
        self._client = client
        self._loop.carry(client)

    def leave(self, client: paho.Client) -> None:
        """See agent.mqtt.Network."""
        self.plug_in()
        self._client = None
        self._loop.leave(client)

    def pull(self) -> None:
        """The connection stays open, and not a byte goes through it."""
        if self._client is not None:
            self._loop.mute(self._client)

    def plug_in(self) -> None:
        """See `pull`."""
        if self._client is not None:
            self._loop.unmute(self._client)
