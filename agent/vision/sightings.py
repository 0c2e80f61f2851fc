"""When each open track was last seen, so that a crash does not make its stay shorter."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from agent.datatypes import Event
from engines.files import replacing

log = logging.getLogger(__name__)

PERIOD_S = 1.0

Seen = dict[str, dict[str, float]]
"""By stream and track: Unix seconds."""


class Sightings:
    """Kept in a small file, written once a second at most. It survives the death of the process, not of the machine. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen: Seen = {}
        self._due = 0.0
        self._trouble = ""

    def left_behind(self) -> Seen:
        """What the process before this one noted; nothing where there is no such file, or none that can be read."""
        try:
            return {stream: {**tracks} for stream, tracks in json.loads(self._path.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            log.warning("%s cannot be read: tracks that were open end as of their last event: %s", self._path, error)
            return {}

    def note(self, stream: str, captured_at: float, tracks: Iterable[str], events: Iterable[Event]) -> None:
        """The open `tracks` were seen then; those that `events` end are open no longer."""
        with self._lock:
            seen = self._seen.setdefault(stream, {})
            seen.update(dict.fromkeys(tracks, captured_at))
            for event in events:
                if event.data.get("type") == "end":
                    seen.pop(str(event.data.get("track")), None)
            now = time.monotonic()
            if seen and now >= self._due:
                self._due = now + PERIOD_S
                self._write()

    def _write(self) -> None:
        try:
            with replacing(self._path, durable=False) as part:
                part.write_text(json.dumps(self._seen))
            trouble = ""
        except OSError as error:
            trouble = str(error)
        if trouble and trouble != self._trouble:
            log.warning("when tracks were last seen cannot be noted: %s", trouble)
        self._trouble = trouble
