"""What a fleet's mosquitto takes from a device, and what it does not."""

from __future__ import annotations

import re
from pathlib import Path

from provisioning.client import session
from provisioning.trial import Trial


def test_a_device_that_floods_the_broker_is_ended_and_the_others_are_served(tmp_path: Path) -> None:
    """With as little memory as fills soon; it stays full of retained messages, also after a power cut."""
    trial = Trial(tmp_path)
    file = trial.folder / "mosquitto.conf"
    limits = dict(re.findall(r"^(max_queued_bytes|memory_limit|max_packet_size) (\d+)$", file.read_text(), re.MULTILINE))
    assert int(limits["memory_limit"]) > 2 * int(limits["max_queued_bytes"]) > 100 * int(limits["max_packet_size"])
    file.write_text(re.sub(r"^memory_limit .*", f"memory_limit {8 * 2**20}", file.read_text(), flags=re.MULTILINE))
    with trial, session(trial.endpoint, trial.hub) as hub:
        hub.subscribe(["almena/1/cam-2/up/audit"])
        with session(trial.endpoint, trial.device("cam-1")) as device:
            for number in range(100):
                device._client.publish(f"almena/1/cam-1/up/event/door/{number}", bytes(200_000), 1, True)
            assert device.ended.wait(60)
        with session(trial.endpoint, trial.device("cam-3")) as large:
            large._client.publish("almena/1/cam-3/up/audit", bytes(int(limits["max_packet_size"])), 1)
            assert large.ended.wait(60)
        other = trial.device("cam-2")
        with session(trial.endpoint, other) as device:
            assert device.publish("almena/1/cam-2/up/audit", b"one")
        assert hub.heard.get(timeout=30).payload == b"one"
        assert not hub.ended.is_set()
        trial.stop(kill=True)
        trial.start()
        with session(trial.endpoint, other) as device:
            assert device.publish("almena/1/cam-2/up/audit", b"two")
    assert "cam-1 disconnected due to out of memory" in trial.log.read_text()
