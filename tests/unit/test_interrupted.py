"""Tracks that were open when vision was killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from agent.outbox import Outbox
from agent.settings import OutboxSettings
from agent.vision.interrupted import end_interrupted
from agent.vision.sightings import Sightings
from tests.fakes.face_events import of_track

pytestmark = pytest.mark.unit


def test_interrupted_tracks_end_once_even_when_the_clock_was_stepped(tmp_path: Path) -> None:
    with Outbox.open(tmp_path, "dev", OutboxSettings()) as outbox:
        assert end_interrupted(outbox, {}) == 0
        outbox.append("event", [of_track("a", "new", 1000.0), of_track("b", "new", 1001.0), of_track("a", "new", 1002.0, "attic")])
        outbox.append("event", [of_track("c", "new", 90_000.0)])  # a day ahead
        outbox.append("event", [of_track("c", "end", 1003.0), of_track("b", "update", 1004.0), of_track("a", "end", 1005.0, "attic")])
        assert end_interrupted(outbox, {}) == 2
        ends = outbox.history(kind="face", after_seq=7)
        assert [(one["stream"], one["data"]["track"], one["data"]["reason"]) for one in ends] == [
            ("cam", "a", "interrupted"),
            ("cam", "b", "interrupted"),
        ]
        assert [one["data"]["ended_at"] for one in ends] == [1000.0, 1004.0]
        assert all(one["model"] == "model" for one in ends)
        assert end_interrupted(outbox, {}) == 0


@pytest.mark.parametrize("damaged", [b"", b"[]", b'{"cam": 3}', b"\xff"])
def test_damaged_sightings_are_told_and_left_aside(damaged: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "seen.json").write_bytes(damaged)
    assert Sightings(tmp_path / "seen.json").left_behind() == {}
    assert "tracks that were open end as of their last event" in caplog.text


def test_interrupted_tracks_end_also_when_nothing_is_left_of_them_in_the_history(tmp_path: Path) -> None:
    person = {"decision": "known", "identity": "p-1", "name": "Zacharias"}
    with Outbox.open(tmp_path, "dev", OutboxSettings(history_bytes=0)) as outbox:
        outbox.append(
            "event",
            [of_track("a", "new", 1000.0), of_track("b", "new", 1001.0), of_track("b", "update", 1002.0), of_track("c", "new", 1003.0)],
        )
        one = of_track("d", "new", 1004.0)
        outbox.append("event", [replace(one, data={**one.data, **person}), of_track("c", "end", 1005.0)])
        for row in outbox.pending("event", 10):
            outbox.settle("event", row.spool, row.seq)
        assert outbox.history() == []
        outbox.erase("p-1")
        assert end_interrupted(outbox, {}) == 3
        told = [one["data"] for one in outbox.history(after_seq=0)]
        assert [(data["track"], data["ended_at"], data["reason"]) for data in told] == [
            ("a", 1000.0, "interrupted"),
            ("b", 1002.0, "interrupted"),
            ("d", 1004.0, "interrupted"),
        ]
        assert (told[2]["decision"], told[2]["identity"], told[2]["name"]) == ("known", None, None)
        assert end_interrupted(outbox, {}) == 0
    assert b"Zacharias" not in b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
