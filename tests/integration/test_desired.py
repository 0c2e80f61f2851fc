"""Desired settings on a real device: its two processes and a mosquitto; each of them may be killed while settings are being tried."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from agent.uplink.vision_link import VisionError, VisionLink
from tests.fakes.fleet import DEVICE, Peer, Process, peer, write_settings
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.ports import free_port
from tests.waiting import wait_until

HERE = f"almena/1/{DEVICE}"
MODULES = {"uplink": "tests.fakes.uplinks", "vision": "agent.vision"}


class Device:
    """One with a stream `door`; `hub` hears what it says."""

    def __init__(self, folder: Path, port: int, hub: Peer) -> None:
        self.hub = hub
        self.clip = _clip(folder / "clip.avi")
        path = write_settings(folder, port)
        settings = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**settings, "streams": [self.stream("door")]}))
        self.state = folder / "state"
        self._vision = VisionLink(self.state / "run" / "vision.sock")
        self.processes = {name: Process(folder, module, str(path)) for name, module in MODULES.items()}

    def stream(self, name: str, **source: Any) -> dict[str, Any]:
        """One without a task."""
        return {"name": name, "source": source or {"type": "video", "path": str(self.clip), "loop": True}}

    def want(self, revision: int, **state: Any) -> None:
        """Retained, as the hub says it."""
        self.hub.say(f"{HERE}/down/desired", {"v": 1, "revision": revision, "state": state}, retain=True)

    def reports(self, what: str, **fields: Any) -> dict[str, Any]:
        """Wait for a report with these fields."""
        return wait_until(lambda: self._reported(fields), 60, f"{what}; {self.hub.on('up/reported')[-1:]}")

    def tries(self, revision: int) -> None:
        """Wait until it has said that it tries this."""
        wait_until(lambda: [one for one in self.hub.on("up/reported") if one.data["trying"] == revision], 30, f"a trial of {revision}")

    def runs(self, *streams: str) -> dict[str, int]:
        """Wait until exactly these run; the frames that each has given."""
        return wait_until(lambda: self._running(streams), 60, f"{streams} to run")

    def said(self, topic_end: str) -> list[dict[str, Any]]:
        """The data of rows of its outbox, each once: what was on its way when a session ended comes twice."""
        return list({one.data["id"]: one.data["data"] for one in self.hub.on(f"up/{topic_end}")}.values())

    def audited(self) -> list[tuple[str, str, int]]:
        """What it has written down about settings: who, how it ended, revision."""
        entries = [entry for entry in self.said("audit") if entry["action"] == "settings"]
        return [(entry["actor"], entry["outcome"], entry["detail"]["revision"]) for entry in entries]

    def kill(self, *names: str) -> None:
        """SIGKILL to each, and another start."""
        for name in names:
            self.processes[name].kill()
        for name in names:
            self.processes[name].start()

    def _reported(self, fields: dict[str, Any]) -> Any:
        said = self.hub.on("up/reported")
        return said[-1].data if said and fields.items() <= said[-1].data.items() else None

    def _running(self, names: tuple[str, ...]) -> dict[str, int] | None:
        try:
            streams = {one["stream"]: one for one in self._vision.get("/streams")}
        except VisionError:
            return None
        fine = streams.keys() == set(names) and all(one["state"] == "running" for one in streams.values())
        return {name: one["captured"] for name, one in streams.items()} if fine else None


def _clip(path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(20):
        writer.write(np.full((48, 64, 3), 40 + 8 * number, np.uint8))
    writer.release()
    return path


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    folder = tmp_path_factory.mktemp("desired")
    with Mosquitto(folder / "broker") as broker, peer(broker.port, f"{HERE}/#", name="hub") as hub, ExitStack() as running:
        one = Device(folder, broker.port, hub)
        for process in one.processes.values():
            running.enter_context(process)
        one.runs("door")
        yield one


def test_a_stream_is_added_and_removed_and_the_other_is_not_disturbed(device: Device) -> None:
    before = device.runs("door")["door"]
    device.want(1, streams=[device.stream("door"), device.stream("yard")], telemetry={"period_s": 50})
    report = device.reports("the two streams", revision=1, refused=None, trying=None, errors=[])
    assert report["state"]["streams"] == {"door": [], "yard": []}
    assert device.runs("door", "yard")["door"] > before
    wait_until(lambda: device.hub.on("status")[-1].data["lease_s"] == 150, 10, "the new lease")
    kept = device.state / "remote" / "settings.json"
    assert (stat.S_IMODE(kept.stat().st_mode), stat.S_IMODE(kept.parent.stat().st_mode) & 0o777) == (0o640, 0o750)
    wait_until(lambda: device.audited() == [("hub", "accepted", 1), ("hub", "done", 1)], 30, "both in the audit")
    assert [said["state"] for said in device.said("event/door/stream")] == ["running"], "the stream that was there has gone on"


def test_what_cannot_work_here_is_refused_and_what_held_goes_on(device: Device) -> None:
    device.want(2, streams=[device.stream("door"), device.stream("attic", type="video", path="attic.avi")])
    report = device.reports("the refusal", refused=2, revision=1)
    assert "attic.avi is neither named in the device's settings file nor in one of its remote.folders" in report["errors"][0]
    device.want(3, streams=[device.stream("attic", type="rtsp", url=f"rtsp://127.0.0.1:{free_port()}/1")])
    device.tries(3)
    report = device.reports("the refusal", refused=3, trying=None, revision=1)
    assert report["errors"][0].startswith("stream attic: STREAM_NOT_FOUND: rtsp://127.0.0.1:")
    device.runs("door", "yard")


@pytest.mark.parametrize(("killed", "revision"), [(("vision",), 4), (("uplink",), 5), (("uplink", "vision"), 6)])
def test_kills_while_settings_are_tried(device: Device, killed: tuple[str, ...], revision: int) -> None:
    device.want(revision, streams=[device.stream("door"), device.stream(f"cam-{revision}")])
    device.tries(revision)
    device.kill(*killed)
    device.reports("the settings to hold all the same", revision=revision, trying=None, errors=[])
    device.runs("door", f"cam-{revision}")


def test_what_is_taken_back_holds_no_more(device: Device) -> None:
    device.want(7, streams=[device.stream("door"), device.stream("last")])
    device.tries(7)
    device.hub.say(f"{HERE}/down/desired", b"", retain=True)
    device.reports("the settings file alone", revision=None, trying=None, errors=[])
    device.runs("door")
    device.kill("vision")
    device.runs("door")
