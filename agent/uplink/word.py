"""What the uplink says of its broker to others on this device, such as `almena doctor`: `run/broker.json` in the state folder."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from agent.uplink.status import UplinkStatus
from engines.files import replacing

EVERY_S = 10.0
HOLDS_S = 60.0
"""After that whoever said it has ended, or hangs."""


@dataclass(frozen=True)
class Word:
    """`at`: when it was said; `since`: for how long it has been connected, or not (Unix times). `trouble`: the last one, with its time."""

    at: float
    connected: bool
    since: float
    text: str
    trouble: str = ""
    trouble_at: float | None = None

    @property
    def sentence(self) -> str:
        """For people."""
        state = "connected" if self.connected else "not connected"
        last = f"; last trouble, {_moment(self.trouble_at)}: {self.trouble}" if self.trouble_at and self.connected else ""
        return f"the uplink is {state} since {_moment(self.since)}: {self.text.rstrip('.')}{last}"


class Teller:
    """Writes it down when it changes, and now and then."""

    def __init__(self, state_dir: Path, status: UplinkStatus) -> None:
        self._path = _place(state_dir)
        self._status = status
        self._told: Word | None = None

    def look(self) -> None:
        """Called about once a second. Where it cannot be written, whoever reads it sees that it is old."""
        status, now, told = self._status, time.time(), self._told
        word = Word(now, status.connected, status.since, status.text, str(status.last_trouble or ""), status.last_trouble_at)
        if told and asdict(word) | {"at": told.at} == asdict(told) and 0 <= now - told.at < EVERY_S:
            return
        self._told = word
        try:
            with replacing(self._path, durable=False) as part:
                part.write_text(json.dumps(asdict(word)))
        except OSError:
            self._told = None


def said(state_dir: Path) -> Word | None:
    """What a running uplink has said; None where there is none, or none that may be read."""
    try:
        word = Word(**json.loads(_place(state_dir).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return word if abs(time.time() - word.at) < HOLDS_S else None


def _place(state_dir: Path) -> Path:
    return state_dir / "run" / "broker.json"


def _moment(at: float | None) -> str:
    return f"{datetime.fromtimestamp(at or 0.0):%Y-%m-%d %H:%M:%S}"
