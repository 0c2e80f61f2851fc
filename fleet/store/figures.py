"""Telemetry as flat metrics: what charts, roll-ups and rules read.

`cpu_percent`, `memory_percent`, `temperature_c` (the hottest), `gpu_percent`, `disk_free_bytes`, `disk_percent`, `outbox_depth`,
`outbox_oldest_s`, `outbox_lost` (lanes together); for each stream `fps.STREAM` (processed), `captured.STREAM` and `latency_ms.STREAM`
(median of inference).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

METRICS = 200
"""Of one sample at most: a device cannot fill the database with names."""


def flat(sample: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of one sample of telemetry; what it does not say is not there. Never raises, whatever a device sends."""
    found: dict[str, float] = {}
    for name, value in _all(sample):
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 1e300:
            found[name] = float(value)
            if len(found) == METRICS:
                break
    return found


def _all(sample: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    system, jetson = _part(sample, "system"), _part(sample, "jetson")
    yield "cpu_percent", system.get("cpu_percent")
    yield "memory_percent", _part(system, "memory").get("used_percent")
    yield "gpu_percent", jetson.get("gpu_percent")
    zones = [*_part(system, "temperatures_c").values(), *_part(jetson, "temperatures_c").values()]
    yield "temperature_c", max((zone for zone in zones if isinstance(zone, int | float)), default=None)
    disk = _part(system, "disk")
    yield "disk_free_bytes", disk.get("free_bytes")
    yield "disk_percent", disk.get("used_percent")
    lanes = [lane for lane in _part(sample, "outbox").values() if isinstance(lane, dict)]
    if lanes:
        yield "outbox_depth", _sum(lanes, "pending")
        yield "outbox_lost", _sum(lanes, "lost")
        yield "outbox_oldest_s", max((age for lane in lanes if isinstance(age := lane.get("oldest_age_s"), int | float)), default=0)
    vision = _part(sample, "vision")
    streams = vision.get("streams")
    for stream in streams if isinstance(streams, list) else ():
        if isinstance(stream, dict) and isinstance(name := stream.get("stream"), str):
            yield f"fps.{name[:64]}", stream.get("processed_per_second")
            yield f"captured.{name[:64]}", stream.get("captured_per_second")
    for name, figures in _part(vision, "metrics").items():
        if isinstance(figures, dict) and isinstance(seconds := figures.get("infer_p50_seconds"), int | float):
            yield f"latency_ms.{name[:64]}", seconds * 1000


def _part(whole: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = whole.get(name)
    return part if isinstance(part, dict) else {}


def _sum(lanes: list[dict[str, Any]], name: str) -> float:
    return sum(value for lane in lanes if isinstance(value := lane.get(name), int | float))
