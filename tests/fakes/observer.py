"""Somebody else who listens: mosquitto's own client, counted by plain `json`, so that nothing is shared with agent and hub."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.waiting import wait_until

TOPICS = "almena/1/#"


class Observer:
    """`mosquitto_sub` at MQTT 5 and QoS 1 with a session that the broker keeps; every message is a line of a file."""

    def __init__(self, folder: Path, port: int, topics: Sequence[str] = (TOPICS,)) -> None:
        self._file, self._log = folder / "observed.txt", folder / "observer.log"
        command = [
            "mosquitto_sub",
            "-p",
            str(port),
            "-V",
            "5",
            "-i",
            "observer",
            "-c",
            "-x",
            "86400",
            "-q",
            "1",
            "-F",
            "%t %p",
            *(word for topic in topics for word in ("-t", topic)),
        ]
        with self._file.open("wb") as out, self._log.open("wb") as log:
            self._process = subprocess.Popen(["stdbuf", "-oL", *command, "-d"], stdout=out, stderr=log)
        self._connections = 0
        self.until_connected()

    def until_connected(self) -> None:
        """Wait until it has subscribed, once more after each start of the broker."""
        self._connections += 1
        wait_until(lambda: self._file.read_text().count("Subscribed") >= self._connections, 20, "the observer's subscription")

    def events(self) -> Counter[str]:
        """Ids of the events that were heard, each with the number of times that it came."""
        return Counter(event["id"] for event in self._heard())

    def faces(self) -> set[str]:
        """Ids of the face events that were heard."""
        return {event["id"] for event in self._heard() if event["kind"] == "face"}

    def close(self) -> None:
        """End it; it must not have ended by itself."""
        assert self._process.poll() is None, self._log.read_text()
        self._process.terminate()
        self._process.wait(60)

    def _heard(self) -> list[dict[str, Any]]:
        lines = self._file.read_text().splitlines(keepends=True)
        heard = [line.partition(" ") for line in lines if line.startswith("almena/1/") and line.endswith("\n")]
        return [json.loads(payload) for topic, _, payload in heard if topic.split("/")[3:5] == ["up", "event"]]
