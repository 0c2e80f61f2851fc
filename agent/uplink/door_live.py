"""Live pictures for people at the hub, while they look: a WebSocket to the hub's door, and a picture whenever the hub asks for one."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

from agent.audit import audited
from agent.errors import AlmenaError, UsageError
from agent.outbox import Outbox
from agent.uplink.door import Door
from agent.uplink.status import UplinkStatus
from agent.uplink.vision_link import VisionLink

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

log = logging.getLogger(__name__)

MOST_AT_ONCE = 4
LONGEST_S = 600.0
PERIOD_S = 0.2
"""Between two pictures, whatever the hub asks for."""
SILENT_S = 10.0
"""The hub asks for the next picture as long as somebody looks; after so long without a word nobody does."""
LARGEST = 1024 * 1024


class LiveViews:
    """A thread for each; `status.watched` names them, for the local page, and the audit has when each began and ended."""

    def __init__(self, door: Door, vision: VisionLink, outbox: Outbox, status: UplinkStatus) -> None:
        self._door = door
        self._vision = vision
        self._outbox = outbox
        self._status = status
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._views: list[tuple[threading.Thread, ClientConnection]] = []

    def begin(self, stream: str, token: str, seconds: float) -> None:
        """Open the WebSocket of that token, and serve it for `seconds` at most. Raises DoorError, VisionError, UsageError."""
        self._vision.get(f"/streams/{quote(stream, safe='')}/annotations")
        with self._lock:
            self._views = [(thread, socket) for thread, socket in self._views if thread.is_alive()]
            if len(self._views) >= MOST_AT_ONCE:
                raise UsageError(f"{MOST_AT_ONCE} live pictures are being watched; close one of them")
            socket = self._door.connect(f"/live/{quote(token, safe='')}")
            thread = threading.Thread(target=self._serve, args=(socket, stream, min(seconds, LONGEST_S)), name="live-view", daemon=True)
            self._views.append((thread, socket))
            thread.start()

    def stop(self) -> None:
        """End them all."""
        self._stopping.set()
        with self._lock:
            for thread, socket in self._views:
                socket.close()
                thread.join(SILENT_S)

    def _serve(self, socket: ClientConnection, stream: str, seconds: float) -> None:
        shown = {"stream": stream, "since": time.time()}
        try:
            with socket, audited(self._outbox, "hub", "live picture", stream=stream) as entry:
                self._status.watched = [*self._status.watched, shown]
                entry.detail["pictures"] = self._send(socket, stream, time.monotonic() + seconds)
        except (AlmenaError, OSError) as error:
            log.warning("%s: the live picture for the hub ended: %s", stream, error)
        finally:
            self._status.watched = [one for one in self._status.watched if one is not shown]

    def _send(self, socket: ClientConnection, stream: str, until: float) -> int:
        """How many pictures were sent until nobody looked any more. Raises VisionError, UsageError, OSError."""
        from websockets.exceptions import ConnectionClosed

        sent = number = 0
        try:
            while not self._stopping.is_set() and time.monotonic() < until:
                socket.recv(timeout=min(SILENT_S, max(0.0, until - time.monotonic())))
                began = time.monotonic()
                found = self._vision.picture(f"/streams/{quote(stream, safe='')}/preview.jpg?after={number}")
                if found and len(found[0]) > LARGEST:
                    raise UsageError(f"the live picture has more than {LARGEST} bytes: set web.preview_width smaller")
                picture, number = found or (b"", number)
                socket.send(picture)
                sent += bool(picture)
                self._stopping.wait(max(0.0, began + PERIOD_S - time.monotonic()))
        except (ConnectionClosed, TimeoutError):
            pass  # nobody looks any more
        return sent
