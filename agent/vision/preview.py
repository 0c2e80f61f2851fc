"""The live picture of one stream. A frame that nobody looks at costs one assignment; viewers' threads draw and encode."""

from __future__ import annotations

import threading
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agent.datatypes import Annotation, Frame, Image

JPEG_QUALITY = 80
SNAPSHOT_QUALITY = 95
KNOWN = (96, 174, 39)
UNKNOWN = (0, 140, 255)
"""Colours of boxes, blue-green-red."""


@dataclass(frozen=True, slots=True)
class _Offered:
    number: int
    frame: Frame
    annotations: tuple[Annotation, ...]


class Preview:
    """Holds the newest frame of `stream` by reference and makes JPEGs of it on demand.

    At most `max_per_second` pictures a second are encoded, however many viewers there are, each at most `max_width` pixels wide.
    """

    def __init__(self, stream: str, max_per_second: float, max_width: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.stream = stream
        self.encoded = 0
        """Pictures encoded since the start."""
        self._period = 1.0 / max_per_second
        self._max_width = max_width
        self._clock = clock
        self._newest: _Offered | None = None
        self._picture: tuple[int, bytes] | None = None
        self._blank_from = 0
        self._next_at = 0.0
        self._offered = threading.Condition()
        self._waiting = 0
        self._drawing = threading.Lock()

    def offer(self, frame: Frame, annotations: Sequence[Annotation]) -> None:
        """The newest processed frame and what was seen in it. Called by the pipeline; never draws, never waits for a viewer."""
        before = self._newest
        self._newest = _Offered(before.number + 1 if before else 1, frame, tuple(annotations))
        if self._waiting:
            with self._offered:
                self._offered.notify_all()

    def forget(self) -> None:
        """Show the newest frame without what was seen in it, from now on."""
        newest = self._newest
        if newest is None:
            return
        self._blank_from = newest.number + 1
        self._newest = _Offered(newest.number + 1, newest.frame, ())
        self._picture = None
        with self._offered:
            self._offered.notify_all()

    def latest(self, after: int, timeout: float) -> tuple[int, bytes] | None:
        """Number and JPEG of the newest annotated frame whose number is above `after`; None when there is none within `timeout` seconds."""
        deadline = self._clock() + timeout
        if not self._drawing.acquire(timeout=timeout):
            return None
        try:
            if self._picture is None or self._picture[0] < max(after + 1, self._blank_from):
                offered = self._wait(after, deadline)
                if offered is None:
                    return None
                self._picture = (offered.number, self._encode(offered))
            return self._picture
        finally:
            self._drawing.release()

    def snapshot(self) -> bytes | None:
        """The newest frame as a JPEG in full size with nothing drawn on it; None before the first frame."""
        newest = self._newest
        return _jpeg(newest.frame.image, SNAPSHOT_QUALITY) if newest else None

    def _wait(self, after: int, deadline: float) -> _Offered | None:
        """The newest frame above `after`, not before the rate allows the next picture."""
        with self._offered:
            self._waiting += 1
            try:
                while True:
                    now = self._clock()
                    newest = self._newest
                    fresh = newest is not None and newest.number > after
                    if fresh and now >= self._next_at:
                        self._next_at = max(self._next_at, now) + self._period
                        return newest
                    wake = min(deadline, self._next_at) if fresh else deadline
                    if now >= deadline:
                        return None
                    self._offered.wait(max(0.0, wake - now))
            finally:
                self._waiting -= 1

    def _encode(self, offered: _Offered) -> bytes:
        import cv2

        image = offered.frame.image
        scale = min(1.0, self._max_width / image.shape[1])
        if scale < 1.0:
            size = (self._max_width, max(1, round(image.shape[0] * scale)))
            canvas: Any = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        else:
            canvas = image.copy()
        text = _writer(cv2)
        for annotation in offered.annotations:
            _draw(cv2, canvas, annotation, scale, text)
        self.encoded += 1
        return _jpeg(canvas, JPEG_QUALITY)


def _jpeg(image: Image, quality: int) -> bytes:
    import cv2

    good, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not good:
        raise RuntimeError(f"a picture of shape {image.shape} cannot be encoded as JPEG")
    return bytes(data)


def _draw(cv2: Any, canvas: Image, annotation: Annotation, scale: float, text: Callable[..., None]) -> None:
    left, top, right, bottom = (round(value * scale) for value in annotation.box)
    colour = KNOWN if annotation.known else UNKNOWN
    cv2.rectangle(canvas, (left, top), (right, bottom), colour, 2, cv2.LINE_AA)
    text(canvas, f"{annotation.label} {annotation.score:.2f}".strip(), left, top, colour)


def _writer(cv2: Any) -> Callable[..., None]:
    """What writes a label on a filled plate: OpenCV 5's Unicode font, or the ASCII one of OpenCV 4."""
    if hasattr(cv2, "FontFace"):
        face = cv2.FontFace("sans")

        def unicode_text(canvas: Image, label: str, left: int, top: int, colour: tuple[int, int, int]) -> None:
            _, _, width, _ = cv2.getTextSize((canvas.shape[1], canvas.shape[0]), label, (0, 0), face, 16, 500)
            x, y = _plate(cv2, canvas, left, top, width, colour)
            cv2.putText(canvas, label, (x, y), (255, 255, 255), face, 16, 500)

        return unicode_text

    def ascii_text(canvas: Image, label: str, left: int, top: int, colour: tuple[int, int, int]) -> None:
        plain = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
        (width, _), _ = cv2.getTextSize(plain, cv2.FONT_HERSHEY_SIMPLEX, 0.5, 1)
        x, y = _plate(cv2, canvas, left, top, width, colour)
        cv2.putText(canvas, plain, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)

    return ascii_text


def _plate(cv2: Any, canvas: Image, left: int, top: int, width: int, colour: tuple[int, int, int]) -> tuple[int, int]:
    """Fill the ground of a label above the box, inside the picture; returns where its text starts."""
    height = 22
    x = max(0, min(left - 1, canvas.shape[1] - width - 10))
    y = max(0, top - height)
    cv2.rectangle(canvas, (x, y), (x + width + 10, y + height), colour, cv2.FILLED)
    return x + 5, y + 16
