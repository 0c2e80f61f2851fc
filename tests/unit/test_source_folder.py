"""The folder source on real files."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.datatypes import Frame
from agent.errors import ItemError, SourceError
from agent.vision.sources.folder import FolderSource
from tests.fakes.running import Start, running_sources
from tests.waiting import wait_until

pytestmark = pytest.mark.unit


def jpeg(level: int, side: int = 64) -> bytes:
    ok, data = cv2.imencode(".jpg", np.full((side, side, 3), level, np.uint8))
    assert ok
    return data.tobytes()


def put(path: Path, data: bytes, age_s: float = 60.0) -> Path:
    path.write_bytes(data)
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path


def folder(path: Path, **settings: object) -> FolderSource:
    given = {"path": path, "watch": False, "settle_s": 0.2, "period_s": 0.02, **settings}
    source = FolderSource(FolderSource.Config.model_validate(given), "inbox")
    source.open()
    return source


def read(source: FolderSource) -> Frame:
    frame = source.read()
    assert frame is not None
    assert frame.item is not None
    return frame


def names(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


@pytest.fixture
def run() -> Iterator[Start]:
    with running_sources() as start:
        yield start


def test_images_come_by_name_then_the_end_and_move_once_they_are_done(tmp_path: Path) -> None:
    for number in (3, 1, 2):
        put(tmp_path / f"{number}.jpg", jpeg(number * 50))
    put(tmp_path / "notes.txt", b"no image")
    put(tmp_path / ".hidden.jpg", jpeg(9))
    source = folder(tmp_path)
    frames = [read(source) for _ in range(3)]
    assert source.read() is None
    assert [round(frame.image.mean()) for frame in frames] == [50, 100, 150]
    assert [frame.index for frame in frames] == [0, 1, 2]
    assert frames[0].captured_at == pytest.approx(time.time() - 60, abs=5)
    assert names(tmp_path) == [".hidden.jpg", "1.jpg", "2.jpg", "3.jpg", "notes.txt"]
    for frame in frames:
        source.done(frame.item)
    assert names(tmp_path) == [".hidden.jpg", "done/1.jpg", "done/2.jpg", "done/3.jpg", "notes.txt"]
    source.close()


def test_an_impossible_time_of_modification_counts_as_now_and_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, moment in (("a", -5), ("b", 300_000_000_000), ("c", 0)):
        os.utime(put(tmp_path / f"{name}.jpg", jpeg(ord(name))), (0, moment))
    if (tmp_path / "b.jpg").stat().st_mtime < 300_000_000_000:
        os.utime(tmp_path / "b.jpg", (0, -7))  # this file system has no such year
    source = folder(tmp_path)
    before = time.time()
    times = [read(source).captured_at for _ in "abc"]
    assert all(before <= at <= time.time() for at in times[:2])
    assert times[2] == 0
    assert [record.levelname for record in caplog.records if "impossible time" in record.message] == ["WARNING"]


def test_the_item_is_the_content_so_a_restart_gives_the_same(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", jpeg(10))
    first = read(folder(tmp_path)).item
    os.rename(tmp_path / "a.jpg", tmp_path / "b.jpg")
    assert read(folder(tmp_path)).item == first


@pytest.mark.parametrize(("after", "left"), [("move", ["done/a.jpg"]), ("delete", []), ("keep", ["a.jpg"])])
def test_what_becomes_of_an_image(tmp_path: Path, after: str, left: list[str]) -> None:
    put(tmp_path / "a.jpg", jpeg(10))
    source = folder(tmp_path, after=after)
    source.done(read(source).item)
    assert names(tmp_path) == left
    assert source.read() is None


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.jpg", b"\xff\xd8\xff\xe0 this is no picture \xff\xd9", "the picture is damaged"),
        ("a.jpg", b"plain words", "not a JPEG, PNG, BMP, WebP or TIFF picture"),
        ("a.png", cv2.imencode(".png", np.zeros((9000, 9000), np.uint8))[1].tobytes(), "9000x9000 pixels; at most 60000000"),
        ("a.jpg", b"", "the file is empty"),
        ("a.jpg", jpeg(10, 256)[:-40], "the JPEG is truncated"),
        ("a.png", cv2.imencode(".png", np.eye(64, dtype=np.uint8) * 255)[1].tobytes()[:-20], "the PNG is truncated"),
    ],
)
def test_a_bad_image_goes_to_failed_with_its_reason(run: Start, tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    put(tmp_path / name, data)
    put(tmp_path / "z.jpg", jpeg(200))
    source = folder(tmp_path)
    running, _ = run(source)
    frame = running.next(30)
    assert frame is not None
    assert round(frame.image.mean()) == 200
    wait_until(lambda: running.ended, 5, "the end")
    running.done(frame.item or "")
    running.stop()
    assert names(tmp_path) == ["done/z.jpg", f"failed/{name}", f"failed/{name}.reason.txt"]
    assert reason in (tmp_path / "failed" / f"{name}.reason.txt").read_text()
    assert running.health().failed == 1


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9.jpg"), "x" * 251 + ".jpg"])
def test_the_reason_is_written_for_every_name(tmp_path: Path, name: str) -> None:
    put(tmp_path / name, b"plain words")
    source = folder(tmp_path)
    source.open()
    with pytest.raises(ItemError) as wrong:
        source.read()
    source.failed(wrong.value.item, f"{name}: no picture")
    moved, reason = sorted((tmp_path / "failed").iterdir(), key=lambda path: path.name.endswith(".reason.txt"))
    assert (moved.name, reason.read_text().endswith("no picture\n")) == (name, True)


def test_equal_names_and_equal_contents_stay_apart(tmp_path: Path) -> None:
    (tmp_path / "done").mkdir()
    put(tmp_path / "done" / "a.jpg", jpeg(1))
    put(tmp_path / "a.jpg", jpeg(10))
    put(tmp_path / "b.jpg", jpeg(10))
    source = folder(tmp_path)
    frames = [read(source), read(source)]
    assert frames[0].item == frames[1].item
    for frame in frames:
        source.done(frame.item)
    moved = names(tmp_path)
    assert [re.sub("-[0-9a-f]{12}", "-+", name) for name in moved] == ["done/a-+.jpg", "done/a.jpg", "done/b.jpg"]
    assert (tmp_path / moved[0]).read_bytes() == jpeg(10)


@pytest.mark.parametrize("name", ["a.jpg", "x" * 251 + ".jpg"])
@pytest.mark.parametrize(("data", "left"), [(b"", "failed"), (b"plain words", "failed"), (jpeg(10), "done")])
def test_files_of_one_name_that_come_one_after_the_other_all_stay(tmp_path: Path, name: str, data: bytes, left: str) -> None:
    source = folder(tmp_path)
    for _ in range(4):
        put(tmp_path / name, data)
        try:
            source.done(read(source).item or "")
        except ItemError as wrong:
            source.failed(wrong.item, wrong.reason)
    assert names(tmp_path)[-1].startswith(left)
    assert [path.read_bytes() for path in (tmp_path / left).glob("*.jpg")] == [data] * 4
    assert len(list((tmp_path / left).glob("*.reason.txt"))) == (4 if left == "failed" else 0)


def test_a_file_that_grows_is_read_once_it_is_whole(tmp_path: Path) -> None:
    whole = jpeg(120, 512)
    growing = threading.Event()

    def write() -> None:
        with (tmp_path / "a.jpg").open("wb") as file:
            for start in range(0, len(whole), len(whole) // 10):
                file.write(whole[start : start + len(whole) // 10])
                file.flush()
                growing.set()
                time.sleep(0.02)

    writer = threading.Thread(target=write)
    writer.start()
    growing.wait(30)
    frame = read(folder(tmp_path, settle_s=1))
    writer.join()
    assert round(frame.image.mean()) == 120


def test_a_time_stamp_in_the_future_does_not_hold_an_image_back(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", jpeg(10), age_s=-3600)
    assert read(folder(tmp_path)).index == 0


def test_watching_gives_what_arrives_and_a_stop_ends_the_wait(run: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    running, _ = run(folder(tmp_path, watch=True))
    assert running.next(0.1) is None
    assert not running.ended
    seen = []
    for number in range(5):
        put(tmp_path / f"{number}.jpg", jpeg(number * 20 + 10))
        frame = running.next(30)
        assert frame is not None
        seen.append(round(frame.image.mean()))
        running.done(frame.item or "")
    assert seen == [10, 30, 50, 70, 90]
    running.stop()
    assert "does not answer" not in caplog.text
    assert len(names(tmp_path / "done")) == 5


def test_an_image_that_is_replaced_while_it_is_worked_on_is_another_image(tmp_path: Path) -> None:
    put(tmp_path / "snapshot.jpg", jpeg(10))
    source = folder(tmp_path)
    first = read(source)
    put(tmp_path / "snapshot.jpg", jpeg(200), age_s=30)
    source.done(first.item)
    second = read(source)
    assert round(second.image.mean()) == 200
    source.done(second.item)
    assert names(tmp_path) == ["done/snapshot.jpg"]


def test_kept_images_are_not_read_twice(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", jpeg(10))
    source = folder(tmp_path, after="keep")
    source.done(read(source).item)
    source.close()
    source.open()
    assert source.read() is None
    put(tmp_path / "a.jpg", jpeg(60), age_s=30)
    assert round(read(source).image.mean()) == 60


def test_a_folder_that_is_gone_is_an_error_and_may_come_back(tmp_path: Path) -> None:
    path = tmp_path / "mount"
    with pytest.raises(SourceError, match="there is no folder") as caught:
        folder(path)
    assert caught.value.code == "STREAM_NOT_FOUND"
    path.mkdir()
    put(path / "a.jpg", jpeg(10))
    assert read(folder(path)).index == 0


def test_a_file_that_cannot_be_read_is_a_failed_item(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", jpeg(10))
    source = folder(tmp_path)
    (tmp_path / "a.jpg").unlink()
    (tmp_path / "a.jpg").mkdir()
    with pytest.raises(ItemError, match=r"a\.jpg: cannot be read"):
        source.read()


def test_entries_that_are_no_files_do_not_stop_the_folder(tmp_path: Path) -> None:
    (tmp_path / "circle.jpg").symlink_to(tmp_path / "circle.jpg")
    (tmp_path / "nowhere.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")
    put(tmp_path / "real.jpg", jpeg(70))
    source = folder(tmp_path)
    assert round(read(source).image.mean()) == 70
    assert source.read() is None
