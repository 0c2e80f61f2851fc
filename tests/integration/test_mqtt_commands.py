"""Commands and desired state over a real mosquitto: carried out once, audited, answered the same however often they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.uplink.app import Uplink
from agent.vision.control import ControlServer
from tests.fakes.fleet import DEVICE, VERSIONS, Peer, peer, write_settings
from tests.fakes.mosquitto import Mosquitto
from tests.fakes.small_vision import SmallVision
from tests.fakes.uplinks import uplink
from tests.waiting import wait_until

HERE = f"almena/1/{DEVICE}"


@dataclass
class Scene:
    """A device that is connected, and a hub that listens."""

    device: Uplink
    hub: Peer
    path: Path
    port: int

    def command(self, word: str, identity: str, **more: Any) -> None:
        """Send a command."""
        payload = {"v": 1, "id": identity, "name": word, "reply_to": f"{HERE}/up/reply/{identity}", "expires_at": time.time() + 60, **more}
        self.hub.say(f"{HERE}/down/command/{word}", payload)

    def replies(self, identity: str, count: int = 1) -> list[Any]:
        """Wait for replies."""
        topic = f"up/reply/{identity}"
        wait_until(lambda: len(self.hub.on(topic)) >= count, 10, f"a reply to {identity}")
        return [each.data for each in self.hub.on(topic)]

    def audited(self, identity: str) -> list[str]:
        """Outcomes in the audit lane."""
        found = [row["data"] for row in self.device.outbox.history(lane="audit", newest_first=False)]
        return [data["outcome"] for data in found if data["detail"].get("id") == identity]


@pytest.fixture(params=VERSIONS)
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """At both versions."""
    with Mosquitto(tmp_path / "broker") as broker:
        path = write_settings(tmp_path, broker.port, version=request.param)
        with peer(broker.port, f"{HERE}/status", f"{HERE}/up/#", version=request.param) as hub, uplink(path) as device:
            wait_until(lambda: hub.on("up/reported"), 10, "the reported state")
            yield Scene(device, hub, path, broker.port)


def test_status_is_answered_and_audited(scene: Scene) -> None:
    scene.command("status", "c-1")
    (reply,) = scene.replies("c-1")
    assert reply["ok"]
    assert reply["result"]["uplink"]["state"] == "connected"
    assert "does not answer" in reply["result"]["streams"]["error"]
    assert scene.audited("c-1") == ["accepted", "done"]
    assert wait_until(lambda: scene.hub.on("up/audit"), 10, "the audit at the hub")


def test_repeat_gets_the_stored_reply(scene: Scene) -> None:
    scene.command("status", "c-2")
    scene.command("status", "c-2")
    first, second = scene.replies("c-2", 2)
    assert first == second
    assert scene.audited("c-2") == ["accepted", "done"]
    scene.device.stop()
    births = len(scene.hub.on("status"))
    with uplink(scene.path):
        wait_until(lambda: [one for one in scene.hub.on("status")[births:] if one.data["state"] == "online"], 10, "the next birth")
        scene.command("status", "c-2")  # from its birth on a device hears commands
        assert scene.replies("c-2", 3)[2] == first


def test_rebirth(scene: Scene) -> None:
    births = len(wait_until(lambda: scene.hub.on("status"), 5, "the birth"))
    scene.command("rebirth", "c-3")
    wait_until(lambda: len(scene.hub.on("status")) > births, 10, "another birth")
    sessions = {each.data["session"] for each in scene.hub.on("status")}
    assert len(sessions) == 1
    assert scene.replies("c-3")[0]["ok"]


def test_unknown_command(scene: Scene) -> None:
    scene.command("format-disk", "c-4")
    (reply,) = scene.replies("c-4")
    assert (reply["ok"], reply["code"]) == (False, "unknown-command")
    assert "live, rebirth, reload, restart-stream, snapshot, status, sync-identities, tune" in reply["detail"]
    assert scene.audited("c-4") == []


def test_expired_command_is_not_carried_out(scene: Scene) -> None:
    scene.command("status", "c-5", expires_at=time.time() - 1)
    assert scene.replies("c-5")[0]["code"] == "expired"
    assert scene.audited("c-5") == []


def test_failure_of_vision_is_told(scene: Scene) -> None:
    scene.command("reload", "c-6")
    (reply,) = scene.replies("c-6")
    assert (reply["ok"], reply["code"]) == (False, "failed")
    assert "vision process does not answer" in reply["detail"]
    assert scene.audited("c-6") == ["accepted", "failed"]


def test_reload_names_what_takes_a_restart_and_what_is_in_force_is_reported(scene: Scene) -> None:
    with SmallVision(scene.device.settings.state_dir) as vision:
        control = ControlServer(vision)
        control.start()
        try:
            scene.command("reload", "c-9")
            (reply,) = scene.replies("c-9")
            in_force = vision.settings.summary()
            assert in_force != scene.device.settings.summary()
            wait_until(
                lambda: scene.hub.on("up/reported")[-1].data["state"].items() >= in_force.items(), 30, "the report of what is in force"
            )
        finally:
            control.stop()
    assert reply["result"] == {"reloaded": True, "restart_needed": ["mqtt"]}


def test_topic_and_payload_must_agree(scene: Scene) -> None:
    scene.command("status", "c-7", name="rebirth")
    assert scene.replies("c-7")[0]["code"] == "bad-command"


def test_replies_go_nowhere_else(scene: Scene) -> None:
    scene.command("status", "c-8", reply_to=f"{HERE}/up/event/cam/count")
    assert scene.replies("c-8")[0]["ok"]
    assert not scene.hub.on("up/event/cam/count")


def test_rubbish_does_not_stop_the_next_command(scene: Scene) -> None:
    scene.hub.say(f"{HERE}/down/command/status", b"\xff{")
    scene.hub.say(f"{HERE}/down/desired", b"[]")
    scene.command("status", "c-9")
    assert scene.replies("c-9")[0]["ok"]


def test_desired_state_is_tried_once_vision_answers_and_taken_back(scene: Scene) -> None:
    scene.hub.say(f"{HERE}/down/desired", {"v": 1, "revision": 7, "state": {"telemetry": {"period_s": 99}}}, retain=True)
    answer = wait_until(lambda: [each.data for each in scene.hub.on("up/reported") if each.data["errors"]], 10, "the answer")[0]
    assert (answer["revision"], answer["refused"]) == (None, None)
    assert "revision 7 is not tried yet: the vision process does not answer" in answer["errors"][0]
    assert answer["state"]["settings"]
    with SmallVision(scene.device.settings.state_dir) as vision:
        control = ControlServer(vision)
        control.start()
        try:
            wait_until(lambda: scene.hub.on("up/reported")[-1].data["revision"] == 7, 10, "revision 7 to hold")
            wait_until(lambda: scene.hub.on("status")[-1].data["lease_s"] == 3 * 99, 10, "the new lease")
            with peer(scene.port, f"{HERE}/up/reported", name="late") as late:
                assert wait_until(lambda: late.on("up/reported"), 5, "the retained report")[0].retained
            scene.hub.say(f"{HERE}/down/desired", b"", retain=True)
            wait_until(lambda: scene.hub.on("up/reported")[-1].data["revision"] is None, 10, "the settings file to hold alone")
            wait_until(lambda: vision.wish is None, 10, "the vision process to go back")
        finally:
            control.stop()


def test_a_stream_is_restarted_and_a_tuning_begun(scene: Scene) -> None:
    with SmallVision(scene.device.settings.state_dir) as vision:
        control = ControlServer(vision)
        control.start()
        try:
            scene.command("restart-stream", "r-1", args={"stream": "door"})
            scene.command("restart-stream", "r-2", args={"stream": "attic"})
            scene.command("restart-stream", "r-4", args={"stream": "../reload"})
            scene.command("restart-stream", "r-3")
            scene.command("tune", "t-1", args={"model": "centerface", "budget_s": 5})
            scene.command("tune", "t-2", args={"model": 3})
            scene.command("tune", "t-3")
            replies = {name: scene.replies(name)[0] for name in ("r-1", "r-2", "r-3", "r-4", "t-1", "t-2", "t-3")}
        finally:
            control.stop()
    assert (vision.restarted, vision.tuned, vision.reloads) == (["door"], [("centerface", 5)], 0)
    assert {name: reply["ok"] for name, reply in replies.items()} == {name: name.endswith("1") for name in replies}
    assert replies["t-1"]["result"]["goes_on"] == ["centerface"]
    assert "no stream" in replies["r-2"]["detail"]
    assert "stream: is required" in replies["r-3"]["detail"]
    assert "under way" in replies["t-3"]["detail"]
    assert scene.audited("t-1") == ["accepted", "done"]
    assert scene.audited("r-2") == ["accepted", "failed"]
