"""Live pictures from a device to the people who look at them, through this process's memory alone.

viewer ─► Views.open ─► command `live` with a token ─► device ─► WebSocket /door/1/live/TOKEN ─► View ─► viewers

The hub asks for each picture, and only while somebody looks: nothing piles up anywhere, and a slow viewer gets fewer.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Callable

from fastapi import APIRouter
from starlette.websockets import WebSocket, WebSocketDisconnect

from agent import jpeg
from agent.serving import Problem, error_response
from fleet.door.server import device_of

log = logging.getLogger(__name__)

PERIOD_S = 0.25
LONGEST_S = 300.0
MOST_LOOKING = 16
"""At all views together: each keeps a thread of the API busy."""
MOST_VIEWERS = 8
"""Of one view; and so many views at once."""
COMES_WITHIN_S = 20.0
"""The device has so long to come, and then the viewer to begin to look."""
NOBODY_S = 1.0
"""After the last viewer has left; a page that is loaded again is back by then."""
PICTURE_WITHIN_S = 10.0
NOBODY_WAITS = "it has ended, or another hub asked for it: where there are several, look at the one that the device's hub.url leads to"


class View:
    """One stream, while somebody looks. Threads may share it."""

    def __init__(self, device: str, stream: str) -> None:
        self.id = secrets.token_urlsafe(16)
        self.token = secrets.token_urlsafe(32)
        self.device = device
        self.stream = stream
        self.ended = ""
        """Why; empty while it goes on."""
        self._news = threading.Condition()
        self._newest: tuple[int, bytes] = (0, b"")
        self.viewers = 0
        self._alone_until = time.monotonic() + 2 * COMES_WITHIN_S
        self._until = time.monotonic() + LONGEST_S
        self.met = False
        """Whether the device has come."""
        self._shown_at = time.monotonic()

    def wanted(self) -> bool:
        """Whether it goes on; ends it where nobody looks any more, or its time is over."""
        now = time.monotonic()
        if now > self._until:
            self.end(f"a live picture ends after {LONGEST_S:.0f} s")
        elif not self.viewers and now > self._alone_until:
            self.end("nobody looks any more")
        return not self.ended

    def end(self, why: str) -> None:
        """Tell the viewers."""
        with self._news:
            self.ended = self.ended or why
            self._news.notify_all()

    def meet(self) -> None:
        """The device is here."""
        with self._news:
            self.met = True
            self._alone_until = time.monotonic() + COMES_WITHIN_S
            self._news.notify_all()

    def show(self, picture: bytes) -> None:
        """A new picture."""
        with self._news:
            self._shown_at = time.monotonic()
            self._newest = (self._newest[0] + 1, picture)
            self._news.notify_all()

    def wait_met(self, timeout: float) -> bool:
        """Whether the device has come, after so long at most."""
        with self._news:
            self._news.wait_for(lambda: self.met or self.ended, timeout)
            return self.met

    @property
    def full(self) -> bool:
        """Whether nobody else may look."""
        return self.viewers >= MOST_VIEWERS

    @property
    def silent_s(self) -> float:
        """How old the newest picture is."""
        return time.monotonic() - self._shown_at

    def join(self) -> None:
        """Somebody looks."""
        with self._news:
            self.viewers += 1

    def leave(self) -> None:
        """And looks no more."""
        with self._news:
            self.viewers -= 1
            self._alone_until = time.monotonic() + NOBODY_S

    def next(self, after: int, timeout: float) -> tuple[int, bytes] | None:
        """Number and JPEG of the newest picture above `after`; None where there is none within `timeout` seconds, or the view ends."""
        with self._news:
            self._news.wait_for(lambda: self._newest[0] > after or self.ended, timeout)
            return self._newest if self._newest[0] > after and not self.ended else None


class Views:
    """All of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._views: dict[str, View] = {}

    def open(self, device: str, stream: str) -> tuple[View, bool]:
        """The view of a stream, and whether it is new, so that the device is to be told. Raises Problem."""
        with self._lock:
            self._views = {key: view for key, view in self._views.items() if view.wanted()}
            for view in self._views.values():
                if (view.device, view.stream) == (device, stream):
                    return view, False
            if len(self._views) >= MOST_VIEWERS:
                raise Problem(503, "Too many live pictures", f"{MOST_VIEWERS} are being watched; close one of them")
            view = View(device, stream)
            self._views[view.id] = view
            return view, True

    @property
    def full(self) -> bool:
        """Whether nobody else may look at any of them."""
        with self._lock:
            return sum(view.viewers for view in self._views.values()) >= MOST_LOOKING

    @property
    def open_now(self) -> int:
        """How many go on."""
        with self._lock:
            return sum(view.wanted() for view in self._views.values())

    def get(self, key: str) -> View | None:
        """By its id."""
        with self._lock:
            return self._views.get(key)

    def awaited(self, token: str, device: str) -> View | None:
        """The view for which this device was given the token, once."""
        with self._lock:
            for view in self._views.values():
                if (
                    view.device == device
                    and not view.met
                    and not view.ended
                    and secrets.compare_digest(view.token.encode(), token.encode())
                ):
                    view.meet()
                    return view
        return None


def live_door(views: Views, stopping: Callable[[], bool]) -> APIRouter:
    """The device's side."""
    router = APIRouter()

    @router.websocket("/live/{token}")
    async def live(socket: WebSocket, token: str) -> None:
        view = views.awaited(token, device_of(socket))
        if view is None:
            await socket.send_denial_response(error_response(Problem(404, "Nobody waits for this picture", NOBODY_WAITS)))
            return
        await socket.accept()
        try:
            await socket.close(await _relay(socket, view, stopping))
        except (WebSocketDisconnect, RuntimeError):
            view.end("the device has ended it")
        except asyncio.TimeoutError:
            view.end("the device sends no picture any more")
            await socket.close(1001)
        finally:
            view.end("the connection with the device has ended")

    return router


async def _relay(socket: WebSocket, view: View, stopping: Callable[[], bool]) -> int:
    """Ask for pictures until nobody looks any more, and return the code to close with. An empty one is a word that there is no new one.

    Raises WebSocketDisconnect, asyncio.TimeoutError.
    """
    while view.wanted() and not stopping():
        began = time.monotonic()
        await socket.send_text("next")
        said = await asyncio.wait_for(socket.receive(), PICTURE_WITHIN_S)
        if said["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(said["code"])
        picture = said.get("bytes")
        if picture is None or (picture and not jpeg.is_whole(picture)):
            log.warning("%s sends what is no picture", view.device)
            view.end("the device sends what is no picture")
            return 1003 if picture is None else 1007
        if picture:
            view.show(picture)
        await asyncio.sleep(max(0.0, began + PERIOD_S - time.monotonic()))
    return 1000
