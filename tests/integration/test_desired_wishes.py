"""What comes as desired state, one after another, before the control API of a vision process in small."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent import wire
from agent.outbox import Outbox, OutboxFullError
from agent.remote import Effective, Wish, effective, keep, kept
from agent.uplink import desired
from agent.uplink.desired import DesiredSettings
from agent.uplink.trial import Patience
from agent.vision.control import ControlServer
from tests.fakes.fleet import write_settings
from tests.fakes.small_vision import SmallVision
from tests.waiting import wait_until

PATIENCE = Patience(ready_s=60.0, failing_s=0.5, steady_s=0.1, look_s=0.02, idle_s=0.05)


class Uplink:
    """What looks after the desired state, and what it says."""

    def __init__(self, path: Path) -> None:
        now = effective(path)
        self.path = path
        self.took: list[Effective] = []
        self.outbox = Outbox.open(now.settings.outbox_dir, "dev-1", now.settings.outbox)
        self.desires = DesiredSettings(path, now, self.outbox, self.took.append, lambda: None, PATIENCE)
        self.desires.start()

    def want(self, revision: int, state: Any = None) -> None:
        """A message."""
        self.desires.submit(wire.encode(wire.Desired(revision=revision, state=state or {"telemetry": {"period_s": revision}})))

    def says(self, **fields: Any) -> dict[str, Any]:
        """Wait for these fields of the report."""
        return wait_until(lambda: self._said(fields), 30, f"{fields}; {self.desires.reported()}")

    def _said(self, fields: dict[str, Any]) -> dict[str, Any] | None:
        said = self.desires.reported()
        return said if fields.items() <= said.items() else None

    def close(self) -> None:
        """End it, as a process does."""
        self.desires.stop()
        self.outbox.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_settings(tmp_path, 1)


@pytest.fixture
def vision(path: Path) -> Iterator[SmallVision]:
    with SmallVision(effective(path).settings.state_dir) as vision:
        control = ControlServer(vision)
        control.start()
        yield vision
        control.stop()


@pytest.fixture
def uplink(path: Path, vision: SmallVision) -> Iterator[Uplink]:
    with closing(Uplink(path)) as uplink:
        yield uplink


def test_the_newest_revision_counts_and_each_once(uplink: Uplink, vision: SmallVision) -> None:
    uplink.want(5)
    uplink.says(revision=5, trying=None, refused=None, errors=())
    wait_until(lambda: [one.settings.telemetry.period_s for one in uplink.took] == [5], 30, "it to be taken over")
    uplink.want(5)
    uplink.want(4)
    assert uplink.says(revision=5)["errors"] == ("revision 4 is older than revision 5, which was wanted before",)
    uplink.want(5, {"telemetry": {"period_s": 99}})
    assert "with other content" in uplink.says(revision=5)["errors"][0]
    assert len(uplink.took) == 1
    uplink.want(6)
    uplink.says(revision=6, errors=())
    uplink.desires.submit(b"")
    uplink.says(revision=None, errors=())
    uplink.want(1)
    uplink.says(revision=1, errors=())
    outcomes = [row["data"]["outcome"] for row in uplink.outbox.history(lane="audit", newest_first=False)]
    assert outcomes == ["accepted", "done"] * 2 + ["taken back"] + ["accepted", "done"]
    assert vision.wish == Wish(1, {"telemetry": {"period_s": 1}})


def test_what_is_taken_back_does_not_come_again_where_the_settings_file_did_not_let_it_hold(path: Path, vision: SmallVision) -> None:
    state_dir = effective(path).settings.state_dir
    keep(state_dir, Wish(7, {"telemetry": {"period_s": 7}}))
    allowing = path.read_text()
    path.write_text(f"{allowing}\nremote: {{settings: false}}\n")
    with closing(Uplink(path)) as uplink:
        uplink.says(revision=None, errors=())
        uplink.desires.submit(b"")
    path.write_text(allowing)
    assert kept(state_dir) is None
    assert effective(path).wish is None


def test_a_newer_one_ends_the_trial_of_the_last(uplink: Uplink, vision: SmallVision) -> None:
    stream = {"name": "yard", "source": {"type": "mjpeg", "url": "http://127.0.0.1:1/"}}
    uplink.want(1, {"streams": [stream]})
    uplink.says(trying=1, revision=None)
    uplink.want(2)
    uplink.says(trying=None, revision=2, errors=())
    assert kept(uplink.path.parent / "state") == Wish(2, {"telemetry": {"period_s": 2}})
    uplink.want(3, {"streams": [stream]})
    uplink.says(trying=3, revision=2)
    uplink.desires.submit(b"")
    uplink.says(trying=None, revision=None, errors=())
    wait_until(lambda: vision.wish is None, 5, "the vision process to go back")


HOSTILE = {
    "no JSON": b"\xff{",
    "no object": b"[]",
    "no revision": b'{"v": 1, "state": {}}',
    "revision 0": b'{"v": 1, "revision": 0, "state": {}}',
    "a huge revision": b'{"v": 1, "revision": 1' + b"0" * 400 + b', "state": {}}',
    "too large": json.dumps({"v": 1, "revision": 9, "state": {"x": "y" * 300_000}}).encode(),
    "too deep": b'{"v": 1, "revision": 9, "state": {"streams": ' + b"[" * 9_000 + b"]" * 9_000 + b"}}",
}
"""None of them is a desired state."""


def test_what_is_none_changes_nothing_and_is_told(uplink: Uplink) -> None:
    uplink.want(3)
    uplink.says(revision=3, errors=())
    for payload in HOSTILE.values():
        with pytest.raises(wire.WireError):
            uplink.desires.submit(payload)
        said = uplink.says(revision=3, refused=None)
        assert said["errors"][0].startswith("a desired state cannot be read: desired: ")
        assert len(wire.encode(wire.Reported(state={}, **said))) < 2000


def test_many_errors_are_cut(uplink: Uplink) -> None:
    uplink.want(3, {f"x{number}" * 1000: {} for number in range(40)})
    said = uplink.says(revision=None, refused=3)
    assert (len(said["errors"]), max(map(len, said["errors"]))) == (desired.MOST_ERRORS, desired.LONGEST_ERROR)


def test_a_refusal_is_remembered_until_something_else_may_be_right(vision: SmallVision, path: Path) -> None:
    vision.refusal = "the stream attic has no roof"
    with closing(Uplink(path)) as uplink:
        uplink.want(3)
        assert uplink.says(revision=None, refused=3)["errors"] == ("the stream attic has no roof",)
    vision.refusal = ""
    with closing(Uplink(path)) as again:
        again.want(3)
        assert again.says(refused=3)["errors"] == ("the stream attic has no roof",)
        again.desires.again()
        again.says(refused=None, revision=3)
        vision.refusal = "no"
        again.want(4)
        again.says(refused=4, revision=3)
    vision.refusal = ""
    path.write_text(path.read_text() + "# changed\n")
    with closing(Uplink(path)) as after_a_change:
        after_a_change.says(refused=None, revision=4)


def test_what_ends_the_device_each_time_is_given_up(vision: SmallVision, path: Path) -> None:
    state = path.parent / "state" / "uplink" / "desired.json"
    state.parent.mkdir(parents=True)
    wish = Wish(3, {"telemetry": {"period_s": 3}})
    state.write_text(json.dumps({"wish": wish.as_json(), "refused": [], "agent": "", "tries": desired.TRIES}))
    with closing(Uplink(path)) as uplink:
        assert "it was tried 3 times" in uplink.says(revision=None, refused=3)["errors"][0]
    assert vision.wish is None


@pytest.mark.parametrize("content", [b"", b"null", b"{}", b'{"v": 1, "revision": 7, "state": {}}', b"[" * 100_000])
def test_a_damaged_record_is_as_none(vision: SmallVision, path: Path, content: bytes) -> None:
    file = path.parent / "state" / "uplink" / "desired.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with closing(Uplink(path)) as uplink:
        uplink.want(2)
        uplink.says(revision=2, errors=())


def test_nothing_is_tried_that_cannot_be_recorded(uplink: Uplink, vision: SmallVision, monkeypatch: pytest.MonkeyPatch) -> None:
    append = uplink.outbox.append

    def full(*_: Any, **_more: Any) -> list[int]:
        raise OutboxFullError("the audit lane is full")

    monkeypatch.setattr(uplink.outbox, "append", full)
    uplink.want(2)
    uplink.says(revision=None, errors=("revision 2 is not tried yet: the audit lane is full",))
    assert vision.wish is None
    monkeypatch.setattr(uplink.outbox, "append", append)
    uplink.says(revision=2, errors=())


def test_what_cannot_be_kept_does_not_hold(uplink: Uplink, vision: SmallVision, path: Path) -> None:
    (path.parent / "state" / "remote").write_text("in the way")
    uplink.want(2)
    assert "settings.json cannot be written" in uplink.says(revision=None, refused=2)["errors"][0]
    wait_until(lambda: vision.wish is None, 5, "the vision process to go back")


def test_a_reload_by_somebody_else_in_between_does_not_decide(uplink: Uplink, vision: SmallVision, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Wish] = []
    try_out = vision.try_out

    def forgotten_at_first(wish: Wish) -> bool:
        tried.append(wish)
        return len(tried) == 1 or try_out(wish)

    monkeypatch.setattr(vision, "try_out", forgotten_at_first)
    uplink.want(2)
    uplink.says(revision=2, trying=None, errors=())
    assert tried == [Wish(2, {"telemetry": {"period_s": 2}})] * 2
