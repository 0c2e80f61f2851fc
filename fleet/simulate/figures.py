"""What a simulated device sees and measures. All of it follows from the seed, the device's name and a number."""

from __future__ import annotations

import random
from typing import Any

from agent.datatypes import Event
from fleet.simulate.clock import DeviceClock

STREAM = "door"
PEOPLE = (("p-ada", "Ada"), ("p-grace", "Grace"), ("p-alan", "Alan"), ("p-lise", "Lise"))
MODELS = {"faces.detector": "centerface", "faces.embedder": "dlib-resnet"}
ENGINES = [{"model": name, "backend": "simulated", "precision": "fp32", "why": "a simulated device"} for name in MODELS.values()]
FRAMES_PER_SECOND = 15.0
GIB = 2**30
THROTTLED_C = 96.0


def face(device: str, seed: int, number: int, clock: DeviceClock, *, unfit: bool = False) -> Event:
    """The face event `number` of a device: two of them, `new` and `end`, are one visit. One that is `unfit` has no JSON form."""
    visit, stage = divmod(number - 1, 2)
    chance = random.Random(f"{seed}/{device}/{visit}")
    identity, name = chance.choice(PEOPLE) if chance.random() < 0.6 else (None, None)
    left, top = chance.uniform(0, 500), chance.uniform(0, 200)
    now, stayed = clock.wall(), chance.uniform(2, 60)
    data = {
        "n": number, "type": "end" if stage else "new", "track": f"{visit:08x}",
        "box": [round(value, 1) for value in (left, top, left + 90, top + 120)], "score": round(chance.uniform(0.8, 0.99), 3),
        "started_at": now - (stayed if stage else 0.0), "ended_at": now if stage else None, "identity": identity, "name": name,
        "decision": "known" if name else "unknown", "distance": float("nan") if unfit else round(chance.uniform(0.2, 0.5), 3),
        "threshold": 0.55, "second_best": None, "cluster": None if name else f"u-{chance.randrange(16**6):06x}",
        "frames": int(stayed * FRAMES_PER_SECOND) if stage else 1, "reason": "left" if stage else None,
    }  # fmt: skip
    return Event(STREAM, "face", data, now, clock.mono_ns(), "dlib-resnet", key=f"n{number}")


def stream(number: int, state: str, code: str, clock: DeviceClock) -> Event:
    """The stream of a device has changed its state."""
    data = {"n": number, "state": state, "code": code, "detail": "simulated"}
    return Event(STREAM, "stream", data, clock.wall(), clock.mono_ns(), key=f"n{number}")


def system(chance: random.Random, *, hot: bool) -> dict[str, Any]:
    """The section `system` of a sample."""
    celsius = THROTTLED_C if hot else chance.uniform(45, 60)
    return {
        "cpu_percent": round(chance.uniform(90, 100) if hot else chance.uniform(20, 60), 1),
        "cpu_count": 4,
        "load": [round(chance.uniform(0.5, 2), 2)] * 3,
        "memory": {"total_bytes": 8 * GIB, "available_bytes": 5 * GIB, "used_percent": 37.5},
        "disk": {"total_bytes": 64 * GIB, "free_bytes": 40 * GIB, "used_percent": 37.5},
        "temperatures_c": {"cpu/0": round(celsius, 1)},
    }


def vision(chance: random.Random, now: float, *, share: float, frozen: bool) -> dict[str, Any]:
    """The section `vision` of a sample; `share` is that of the expected frame rate which is reached."""
    rate = 0.0 if frozen else round(FRAMES_PER_SECOND * share * chance.uniform(0.97, 1.0), 2)
    health = {
        "stream": STREAM, "state": "frozen" if frozen else "running", "code": "STREAM_FROZEN" if frozen else "", "detail": "",
        "captured_per_second": rate, "processed_per_second": rate, "skipped_per_second": 0.0, "expected_per_second": FRAMES_PER_SECOND,
        "quality": "unusable" if frozen else "poor" if share < 0.5 else "excellent", "width": 1280, "height": 720, "last_frame_at": now,
    }  # fmt: skip
    slower = 1 / share
    infer = {f"infer_p{rank}_seconds": round(seconds * slower, 4) for rank, seconds in ((50, 0.021), (90, 0.028), (99, 0.04))}
    return {"state": "up", "streams": [health], "metrics": {STREAM: infer}, "engines": ENGINES}
