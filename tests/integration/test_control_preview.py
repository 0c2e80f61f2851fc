"""The live picture: what it draws, how often, and that it costs nothing while nobody looks."""

from __future__ import annotations

import threading
import time

import cv2
import numpy as np

from agent.datatypes import Annotation
from agent.vision.preview import KNOWN, Preview
from tests.fakes.small_vision import frame
from tests.waiting import wait_until

SEEN = (Annotation((100.0, 110.0, 200.0, 230.0), "Zoë", 0.98, known=True),)


def picture(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_nothing_is_encoded_while_nobody_looks() -> None:
    preview = Preview("door", 10.0, 960)
    for index in range(200):
        preview.offer(frame(0) if index == 0 else frame(index), SEEN)
    assert preview.encoded == 0
    assert preview.latest(0, 0.0) is not None
    assert preview.encoded == 1
    for index in range(200):
        preview.offer(frame(index), SEEN)
    assert preview.encoded == 1


def test_the_picture_is_scaled_and_shows_boxes_but_the_frame_stays_clean() -> None:
    preview = Preview("door", 10.0, 320)
    original = frame(3)
    before = original.image.copy()
    preview.offer(original, SEEN)
    number, data = preview.latest(0, 1.0) or (0, b"")
    shown = picture(data)
    assert number == 1
    assert shown.shape == (180, 320, 3)
    assert np.abs(shown[90, 100].astype(int) - KNOWN).max() < 40, "the box's right edge"
    assert np.array_equal(original.image, before)
    clean = picture(preview.snapshot() or b"")
    assert clean.shape == original.image.shape
    assert np.abs(clean.astype(int) - before).mean() < 2


def test_names_are_forgotten_and_the_frame_stays() -> None:
    preview = Preview("door", 1000.0, 640)
    preview.forget()
    assert preview.latest(0, 0.0) is None
    preview.offer(frame(3), SEEN)
    number, named = preview.latest(0, 1.0) or (0, b"")
    preview.forget()
    plain = picture((preview.latest(0, 1.0) or (0, b""))[1])
    assert np.abs(plain.astype(int) - picture(named)).max() > 100
    assert np.abs(plain.astype(int) - frame(3).image).mean() < 3
    assert (preview.latest(number, 1.0) or (0, b""))[0] == number + 1, "who looks on sees it too"


def test_boxes_that_overhang_the_picture_do_no_harm() -> None:
    preview = Preview("door", 10.0, 960)
    boxes = ((-50.0, -50.0, 30.0, 30.0), (600.0, 340.0, 700.0, 400.0))
    preview.offer(frame(0), [Annotation(box, "a name that is rather long " * 4, 0.5) for box in boxes])
    assert preview.latest(0, 1.0) is not None


def test_viewers_share_pictures_and_the_rate_is_kept() -> None:
    preview = Preview("door", 20.0, 320)
    stopping = threading.Event()
    seen: list[list[int]] = [[], [], []]

    def draw() -> None:
        index = 0
        while not stopping.wait(0.005):
            preview.offer(frame(index, width=64, height=36), ())
            index += 1

    def look(numbers: list[int]) -> None:
        number = 0
        while not stopping.is_set():
            latest = preview.latest(number, 0.2)
            if latest:
                number = latest[0]
                numbers.append(number)

    threads = [threading.Thread(target=draw), *(threading.Thread(target=look, args=(numbers,)) for numbers in seen)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    wait_until(lambda: min(map(len, seen)) >= 6, 10, "six pictures for each viewer")
    stopping.set()
    for thread in threads:
        thread.join()
    lasted = time.monotonic() - began
    assert preview.encoded <= lasted * 20.0 + 2
    assert all(numbers == sorted(set(numbers)) for numbers in seen)


def test_no_second_picture_comes_at_once_after_a_pause() -> None:
    now = 0.0
    preview = Preview("door", 10.0, 320, clock=lambda: now)
    shown = []
    for now in (0.0, 60.0, 60.01, 60.09, 60.11, 60.2, 60.22):
        preview.offer(frame(0, width=64, height=36), ())
        if latest := preview.latest(shown[-1][1] if shown else 0, 0.0):
            shown.append((now, latest[0]))
    assert [at for at, _ in shown] == [0.0, 60.0, 60.11, 60.22]


def test_without_a_new_frame_there_is_no_picture() -> None:
    preview = Preview("door", 10.0, 960)
    assert preview.snapshot() is None
    assert preview.latest(0, 0.05) is None
    preview.offer(frame(0), ())
    number, _ = preview.latest(0, 1.0) or (0, b"")
    assert preview.latest(number, 0.15) is None
