"""Settings that a hub wants, over those of the file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.errors import SettingsError
from agent.remote import Effective, RemoteError, Wish, effective, keep, kept, laid_over
from agent.settings import load

pytestmark = pytest.mark.unit

CAMERA = {"type": "rtsp", "url": "rtsps://camera.example/1", "username": "ada", "password_file": "camera.password"}
MJPEG = {"type": "mjpeg", "url": "http://camera.example/live"}
LOCAL = {
    "state_dir": "state",
    "streams": [
        {"name": "door", "source": CAMERA},
        {"name": "hall", "source": {"type": "video", "path": "clip.mp4"}},
        {"name": "post", "source": {"type": "folder", "path": "post", "after": "move"}},
        {"name": "belt", "source": {"type": "gstreamer", "pipeline": "videotestsrc ! videoconvert"}},
    ],
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    for name in ("camera.password", "clip.mp4", "other.password", "pool/new.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("hidden")
    (tmp_path / "pool" / "way-out.mp4").symlink_to(tmp_path / "other.password")
    return write(tmp_path / "almena.yaml")


def write(path: Path, **sections: Any) -> Path:
    path.write_text(yaml.safe_dump({**LOCAL, **sections}))
    return path


def streams(*sources: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"streams": [{"name": f"s{number}", "source": source} for number, source in enumerate(sources)], **more}


def test_each_section_takes_the_place_of_the_files_own(path: Path) -> None:
    write(path, outbox={"history_age_s": 5}, telemetry={"period_s": 5})
    settings = laid_over(path, Wish(3, streams(MJPEG, telemetry={"period_s": 7})))
    assert [stream.name for stream in settings.streams] == ["s0"]
    assert (settings.telemetry.period_s, settings.outbox.history_age_s) == (7, 5)
    assert settings.state_dir == load(path).state_dir


ALLOWED = {
    "the same camera": streams({**CAMERA, "timeout_s": 3, "health": {"stale_after_s": 9}}),
    "another camera": streams(MJPEG),
    "the files' own files": streams({"type": "video", "path": "./clip.mp4", "pace": "fast"}, {"type": "folder", "path": "post"}),
    "the file's own pipeline": streams({"type": "gstreamer", "pipeline": "videotestsrc ! videoconvert"}),
    "a camera of the device": streams({"type": "v4l2", "device": "/dev/video3"}, {"type": "v4l2", "device": 1}),
    "a CSI camera": streams({"type": "gstreamer", "csi": {"rate": 60}}),
    "a card of the catalogue": {"serving": {"models": [{"name": "faces", "card": "centerface"}]}},
    "nothing": {},
}
"""What a hub may want of a device with LOCAL."""


@pytest.mark.parametrize("what", ALLOWED)
def test_a_hub_may_want(path: Path, what: str) -> None:
    laid_over(path, Wish(1, ALLOWED[what]))


REFUSED = {
    "who a device is": ({"device": {"name": "other"}}, "device: this section is decided on the device"),
    "what it allows": ({"remote": {"pipelines": True}}, "remote: this section is decided on the device"),
    "where pictures go": ({"hub": {"url": "https://evil.example"}}, "hub: this section is decided on the device"),
    "what does not exist": ({"colours": {}}, "colours: this section is decided on the device"),
    "no settings": ({"telemetry": {"period_s": "often"}}, "telemetry.period_s: must be a valid number"),
    "a pipeline": (streams({"type": "gstreamer", "pipeline": "filesrc location=/etc/shadow ! fdsink"}), "takes remote.pipelines"),
    "another file": (streams({"type": "video", "path": "/etc/shadow"}), "/etc/shadow is neither named in the device's settings file"),
    "a file that is not there": (streams({"type": "video", "path": "/no/such"}), "/no/such is neither named"),
    "a file of nobody's": (streams({"type": "video", "path": "~nobody-here/x"}), "is neither named"),
    "a file behind dots": (streams({"type": "video", "path": "post/../other.password"}), "is neither named"),
    "another device file": (streams({"type": "v4l2", "device": "/dev/video0/../mem"}), "/dev/video0/../mem is neither named"),
    "deletion": (streams({"type": "folder", "path": "post", "after": "delete"}), "pictures are deleted only where"),
    "a password in words": (streams({**MJPEG, "username": "a", "password": "secret"}), "does not travel over the broker"),
    "a password in the address": (streams({**MJPEG, "url": "http://a:secret@camera.example/"}), "does not travel over the broker"),
    "the password elsewhere": (streams({**CAMERA, "url": "rtsps://evil.example/1"}), "a password goes to no other address"),
    "the password in the clear": (streams({**CAMERA, "url": "rtsp://camera.example/1"}), "a password goes to no other address"),
    "the password without a check": (streams({**CAMERA, "tls_verify": False}), "a password goes to no other address"),
    "another password": (streams({**CAMERA, "password_file": "other.password"}), "is neither named"),
    "models of elsewhere": ({"engines": {"models_dir": "/srv"}}, "engines.models_dir: /srv is neither named"),
    "a card of elsewhere": ({"serving": {"models": [{"name": "x", "card": "/srv/x.yaml"}]}}, "card: /srv/x.yaml is neither"),
    "templates of faces": ({"serving": {"templates": True}}, "face templates are served only where"),
}  # fmt: skip
"""What a hub may not want of a device with LOCAL, and why."""


@pytest.mark.parametrize("what", REFUSED)
def test_a_hub_may_not_want(path: Path, what: str) -> None:
    state, why = REFUSED[what]
    with pytest.raises(SettingsError) as error:
        laid_over(path, Wish(1, state))
    assert why in str(error.value)
    assert "secret" not in str(error.value)


def test_the_file_may_allow_more_or_nothing(path: Path) -> None:
    pipeline = streams({"type": "gstreamer", "pipeline": "videotestsrc"})
    new, way_out = (streams({"type": "video", "path": f"pool/{name}.mp4"}) for name in ("new", "way-out"))
    write(path, remote={"folders": ["pool"], "pipelines": True})
    laid_over(path, Wish(1, pipeline))
    laid_over(path, Wish(1, new))
    with pytest.raises(SettingsError, match=r"way-out\.mp4 is neither"):
        laid_over(path, Wish(1, way_out))
    write(path, remote={"settings": False})
    with pytest.raises(SettingsError, match=r"remote\.settings is false"):
        laid_over(path, Wish(1, {}))


def test_what_is_kept_holds_until_it_is_taken_back(path: Path) -> None:
    assert effective(path) == Effective(load(path))
    wish = Wish(4, {"telemetry": {"period_s": 7}})
    keep(load(path).state_dir, wish)
    assert effective(path) == Effective(laid_over(path, wish), wish)
    assert effective(path).summary().items() >= {"revision": 4, "wish": wish.mark, "problem": ""}.items()
    write(path, remote={"settings": False})
    assert effective(path).wish is None
    write(path)
    keep(load(path).state_dir, None)
    assert effective(path) == Effective(load(path))


def test_what_does_not_fit_any_more_holds_no_more_and_is_told(path: Path) -> None:
    keep(load(path).state_dir, Wish(4, streams({"type": "video", "path": "clip.mp4"})))
    (path.parent / "clip.mp4").unlink()
    write(path, streams=[])
    found = effective(path)
    assert (found.settings, found.wish) == (load(path), None)
    assert "the settings file holds alone: streams[0].source.path" in found.problem


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"revision": 1}', b'{"revision": "1", "state": {}}', b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_told_and_the_settings_file_holds(path: Path, content: bytes) -> None:
    state = load(path).state_dir
    keep(state, Wish(4, {}))
    (state / "remote" / "settings.json").write_bytes(content)
    with pytest.raises(RemoteError, match="is damaged"):
        kept(state)
    found = effective(path)
    assert (found.settings, found.wish) == (load(path), None)
    assert "is damaged" in found.problem
    keep(state, Wish(5, {}))
    assert kept(state) == Wish(5, {})


def test_what_cannot_be_kept_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = load(path).state_dir
    keep(state, Wish(4, {}))

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RemoteError, match="cannot be written: No space left on device"):
        keep(state, Wish(5, {}))
    assert kept(state) == Wish(4, {})
    assert [file.name for file in (state / "remote").iterdir()] == ["settings.json"]


def test_a_wish_has_the_same_mark_wherever_it_was_read() -> None:
    wish = Wish(2, {"b": [1, {"c": None}], "a": 1.5})
    assert Wish.of_json(json.loads(json.dumps(wish.as_json()))).mark == wish.mark
    assert len({wish.mark, Wish(3, wish.state).mark, Wish(2, {}).mark}) == 3
