"""A vision process in small: real control API and previews over frames that are drawn here, and people kept in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from agent.datatypes import Annotation, Frame, StreamHealth
from agent.dicom_settings import DicomSettings
from agent.errors import AlmenaError, SettingsError, UnknownError, UsageError
from agent.remote import Effective, RemoteError, Wish, kept
from agent.settings import Settings
from agent.vision.inference.models import Serving
from agent.vision.preview import Preview
from agent.vision.study_control import StudyControl


def frame(index: int, stream: str = "door", width: int = 640, height: int = 360) -> Frame:
    """A gradient with a bright square that moves with `index`."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = np.linspace(40, 110, width, dtype=np.uint8)
    image[..., 1] = np.linspace(60, 120, height, dtype=np.uint8)[:, None]
    left = 60 + index * 4 % (width - 200)
    image[110:230, left : left + 100] = (150, 180, 215)
    return Frame(image, stream, index, time.time(), time.monotonic_ns())


class Known(dict[str, Any]):
    """Raises UnknownError as the real gallery does."""

    def __missing__(self, key: str) -> None:
        raise UnknownError(key)

    def __delitem__(self, key: str) -> None:
        self[key]
        super().__delitem__(key)


class SmallPeople:
    """Keeps identities in memory. A picture is taken unless its bytes are few."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, Any]] = Known()
        self.images: dict[str, list[bytes]] = Known()
        self.unknown: dict[str, dict[str, Any]] = Known()

    def identities(self) -> Sequence[Mapping[str, Any]]:
        return sorted(self.records.values(), key=lambda record: record["name"])

    def create(self, name: str, consent: str, expires_at: float | None) -> Mapping[str, Any]:
        if any(record["name"] == name for record in self.records.values()):
            raise AlmenaError(f"the name {name!r} is taken")
        identity = f"p-{len(self.records) + 1:012x}"
        self.images[identity] = []
        self.records[identity] = {
            "id": identity, "name": name, "consent": consent, "created_at": time.time(), "expires_at": expires_at,
            "pictures": 0, "templates": 0, "needs_pictures": False,
        }  # fmt: skip
        return self.records[identity]

    def add_image(self, identity: str, picture: bytes) -> Mapping[str, Any]:
        record = self.records[identity]
        if len(picture) < 1000:
            return {"accepted": False, "reasons": ["no face was found"]}
        self.images[identity].append(picture)
        record["pictures"] = record["templates"] = len(self.images[identity])
        return {"accepted": True, "identity": record, "warnings": []}

    def pictures(self, identity: str) -> Sequence[bytes]:
        return self.images[identity]

    def change(self, identity: str, changes: Mapping[str, Any]) -> Mapping[str, Any]:
        self.records[identity].update(changes)
        return self.records[identity]

    def erase(self, identity: str) -> None:
        del self.records[identity]

    def clusters(self) -> Sequence[Mapping[str, Any]]:
        return list(self.unknown.values())

    def name_cluster(self, cluster: str, name: str, consent: str, expires_at: float | None) -> Mapping[str, Any]:
        del self.unknown[cluster]
        return self.create(name, consent, expires_at)

    def erase_cluster(self, cluster: str) -> None:
        del self.unknown[cluster]

    def recognise(self, picture: bytes) -> Sequence[Mapping[str, Any]]:
        box = {"x_min": 10.0, "y_min": 20.0, "x_max": 90.0, "y_max": 120.0, "score": 0.98}
        name = next(iter(self.records.values()))["name"] if self.records else None
        return [{"box": box, "decision": "known" if name else "undecided", "name": name, "distance": 0.31, "threshold": 0.5}]


class SmallVision:
    """Streams of moving squares at 25 frames a second while it is `running`."""

    def __init__(self, state_dir: Path, streams: Sequence[str] = ("door",), dicom: DicomSettings | None = None) -> None:
        self.settings = Settings(state_dir=state_dir, dicom=dicom)
        self.faces = SmallPeople()
        self.serving = Serving(self.settings)
        self.studies = StudyControl(self.settings)
        self.reloads = 0
        self.restart_needed = ("mqtt",)
        self.wish: Wish | None = None
        self.refusal = ""
        self.pictures = None
        self.restarted: list[str] = []
        self.tuned: list[tuple[str | None, float | None]] = []
        self._previews = {name: Preview(name, 10.0, 960) for name in streams}
        self._stopping = threading.Event()
        self._index = 0
        self._thread = threading.Thread(target=self._draw, daemon=True)

    def __enter__(self) -> SmallVision:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _draw(self) -> None:
        while not self._stopping.wait(0.04):
            self._index += 1
            for name, preview in self._previews.items():
                preview.offer(frame(self._index, name), self.annotations(name))

    def streams(self) -> list[StreamHealth]:
        return [
            StreamHealth(
                name,
                "running",
                captured=self._index,
                processed=self._index,
                captured_per_second=25.0,
                processed_per_second=24.6,
                skipped_per_second=0.4,
                expected_per_second=25.0,
                quality="excellent",
                width=640,
                height=360,
                last_frame_at=time.time(),
            )
            for name in self._previews
        ]

    def preview(self, stream: str) -> Preview:
        if stream not in self._previews:
            raise UnknownError(stream)
        return self._previews[stream]

    def annotations(self, stream: str) -> Sequence[Annotation]:
        if stream not in self._previews:
            raise UnknownError(stream)
        left = 60 + self._index * 4 % 440
        return [Annotation((left, 110, left + 100, 230), "Zoë Ångström", 0.98, known=True, track="t1")]

    def engines(self) -> list[dict[str, Any]]:
        """In the shape of passports."""
        speed = {"p50_ms": 5.1, "p90_ms": 6.0, "p99_ms": 7.5, "parallel": 2, "per_second": 180.4}
        close = {"pictures": "portraits", "count": 4, "faces": 4, "score": 0.0028, "overlap": 0.9885, "distance": None, "why": ""}
        far = {**close, "score": None, "overlap": None, "distance": 0.4, "why": "templates differ by 0.400, 0.100 is allowed"}
        return [
            {"model": "centerface@09189deaaf86", "backend": "openvino", "precision": "bf16", "parity": close, "speed": speed},
            {
                "model": "dlib-resnet@55533b28a958", "backend": "openvino", "precision": "fp32", "parity": None, "refused": {"bf16": far},
                "identity": {"backend_version": "2026.4.1-1", "device": "a processor, 2 threads"}, "memory_mb": 40.0,
            },
        ]  # fmt: skip

    def metrics(self) -> dict[str, Any]:
        return {name: {"infer_p50_seconds": 0.012, "frames_total": float(self._index)} for name in self._previews}

    def reload(self) -> bool:
        self.reloads += 1
        self.wish = None
        with suppress(RemoteError):
            self.wish = kept(self.settings.state_dir)
        return self.reloads == 1

    def try_out(self, wish: Wish) -> bool:
        if self.refusal:
            raise SettingsError(self.refusal)
        self.wish = wish
        return True

    def in_force(self) -> dict[str, Any]:
        return Effective(self.settings, self.wish).summary()

    def restart(self, name: str) -> None:
        self.preview(name)
        self.restarted.append(name)

    def tune(self, model: str | None, budget_s: float | None) -> dict[str, Any]:
        if self.tuned:
            raise UsageError("a tuning is under way or waits already")
        self.tuned.append((model, budget_s))
        return self.tuning()

    def tuning(self) -> dict[str, Any]:
        return {"goes_on": [model for model, _ in self.tuned], "done": []}
