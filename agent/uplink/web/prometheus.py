"""Prometheus metrics, made from snapshots when somebody scrapes; nothing is counted twice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from agent import __version__

STREAM_STATES = ("connecting", "running", "frozen", "covered", "failed", "finished")
STREAM_COUNTERS = ("captured", "processed", "skipped", "failed")
LANE_COUNTERS = ("produced", "settled", "lost")
DICOM_COUNTERS = ("accepted", "duplicates", "decoded", "built", "answered", "rejected", "dead")
CALL_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
QUANTILES = re.compile(r"(.+)_p(\d\d)_seconds")
Samples = Iterable[tuple[dict[str, str], float]]


class Snapshot:
    """One scrape. `streams` is None when the vision process does not answer. A prometheus-client collector."""

    def __init__(
        self,
        streams: Sequence[Mapping[str, Any]] | None,
        figures: Mapping[str, Mapping[str, float]],
        lanes: Mapping[str, Mapping[str, Any]],
        broker: Mapping[str, Any],
        telemetry: Mapping[str, Any],
        inference: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._streams = streams
        self._figures = figures
        self._lanes = lanes
        self._broker = broker
        self._inference = inference
        self._system = telemetry.get("system", {})
        self._jetson = telemetry.get("jetson", {})
        self._dicom = telemetry.get("dicom", {})

    def collect(self) -> Iterator[Metric]:
        """Every metric family."""
        yield _gauge("almena_build_info", "Version of the agent.", [({"version": __version__}, 1)])
        yield _gauge("almena_vision_up", "1 while the vision process answers.", [({}, self._streams is not None)])
        yield _gauge("almena_broker_connected", "1 while the broker is connected.", [({}, self._broker["state"] == "connected")])
        yield _counter("almena_broker_published", "Publishes at QoS 1, repeats included.", [({}, self._broker["published"])])
        yield from _stream_metrics(self._streams or ())
        yield from _task_metrics(self._figures)
        yield from _inference_metrics(self._inference)
        yield from _lane_metrics(self._lanes)
        yield from _host_metrics(self._system)
        yield from _jetson_metrics(self._jetson)
        yield from _dicom_metrics(self._dicom)

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)


def _stream_metrics(streams: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    states = [({"stream": s["stream"], "state": state}, s["state"] == state) for s in streams for state in STREAM_STATES]
    yield _gauge("almena_stream_state", "1 for the state that the stream is in.", states)
    counters = [({"stream": s["stream"], "result": name}, s[name]) for s in streams for name in STREAM_COUNTERS]
    yield _counter("almena_stream_frames", "Frames since the start, by what became of them.", counters)
    seen = [({"stream": s["stream"]}, s["last_frame_at"]) for s in streams if s["last_frame_at"]]
    yield _gauge("almena_stream_last_frame_timestamp_seconds", "When the newest frame was captured, Unix time.", seen)
    yield _gauge(
        "almena_stream_reconnects_last_hour", "Reconnects.", [({"stream": s["stream"]}, s["reconnects_last_hour"]) for s in streams]
    )
    yield _gauge("almena_stream_stalls_last_hour", "Stalls.", [({"stream": s["stream"]}, s["stalls_last_hour"]) for s in streams])


def _task_metrics(figures: Mapping[str, Mapping[str, float]]) -> Iterator[Metric]:
    """Names are those of `Task.metrics`: `<stage>_p50_seconds` become quantiles, `…_total` counters, the rest gauges."""
    others: dict[str, list[tuple[dict[str, str], float]]] = {}
    stages = [sample for stream, found in figures.items() for sample in _quantiles(found, stream=stream)]
    for stream, found in figures.items():
        for name, value in found.items():
            if not QUANTILES.fullmatch(name):
                others.setdefault(name, []).append(({"stream": stream}, value))
    yield _gauge("almena_stage_seconds", "How long the stages of a stream take, over the newest frames.", stages)
    for name, values in others.items():
        family = _counter if name.endswith("_total") else _gauge
        yield family(f"almena_task_{name.removesuffix('_total')}", f"{name} of the stream's tasks.", values)


def _inference_metrics(models: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Of the models that are served over HTTP."""
    if not models:
        return
    yield _gauge("almena_inference_ready", "1 while the model answers.", [({"model": m["name"]}, m["state"] == "ready") for m in models])
    ready = [model for model in models if "results" in model]
    results = [({"model": m["name"], "result": name}, count) for m in ready for name, count in m["results"].items()]
    yield _counter("almena_inference_requests", "Requests, by how they ended.", results)
    yield _gauge("almena_inference_queue_pictures", "Pictures that wait.", [({"model": m["name"]}, m["queued"]) for m in ready])
    stages = [sample for model in ready for sample in _quantiles(model["seconds"], model=model["name"])]
    yield _gauge("almena_inference_seconds", "Waiting, computing, and both, over the newest requests.", stages)
    sizes = HistogramMetricFamily("almena_inference_call_pictures", "Pictures that went into one call of an engine.", labels=["model"])
    for model in ready:
        calls = {int(size): count for size, count in model["calls"].items()}
        bounds = [(str(bound), float(sum(count for size, count in calls.items() if size <= bound))) for bound in CALL_SIZES]
        total = float(sum(calls.values()))
        sizes.add_metric([model["name"]], [*bounds, ("+Inf", total)], float(sum(size * count for size, count in calls.items())))
    yield sizes


def _lane_metrics(lanes: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    def values(key: str) -> list[tuple[dict[str, str], float]]:
        return [({"lane": lane}, stats[key]) for lane, stats in lanes.items() if stats.get(key) is not None]

    yield _gauge("almena_outbox_pending", "Events that are not settled yet.", values("pending"))
    yield _gauge("almena_outbox_size_bytes", "Size of the unsettled events.", values("bytes"))
    yield _gauge("almena_outbox_oldest_age_seconds", "Age of the oldest unsettled event.", values("oldest_age_s"))
    for name in LANE_COUNTERS:
        yield _counter(f"almena_outbox_{name}", f"Events {name}.", values(name))


def _host_metrics(system: Mapping[str, Any]) -> Iterator[Metric]:
    """The newest telemetry of the host. What could not be read is absent."""
    if "cpu_percent" in system:
        yield _gauge("almena_host_cpu_ratio", "Use of all processor cores, 0 to 1.", [({}, system["cpu_percent"] / 100)])
    if "uptime_s" in system:
        yield _gauge("almena_host_uptime_seconds", "Time since the boot.", [({}, system["uptime_s"])])
    for part, name in (("memory", "total"), ("memory", "available"), ("disk", "total"), ("disk", "free")):
        if part in system:
            yield _gauge(f"almena_host_{part}_{name}_bytes", f"{part.capitalize()}, {name}.", [({}, system[part][f"{name}_bytes"])])
    for direction, value in system.get("network", {}).items():
        yield _counter(f"almena_host_network_{direction}", f"Bytes, {direction.removesuffix('_bytes')}.", [({}, value)])
    warm = [({"sensor": sensor}, value) for sensor, value in system.get("temperatures_c", {}).items()]
    yield _gauge("almena_host_temperature_celsius", "Temperature.", warm)
    sizes = [({"process": name}, values["rss_bytes"]) for name, values in system.get("processes", {}).items() if "rss_bytes" in values]
    yield _gauge("almena_process_resident_memory_bytes", "Resident memory of the agent's processes.", sizes)


def _jetson_metrics(jetson: Mapping[str, Any]) -> Iterator[Metric]:
    """Nothing on other hosts."""
    if "gpu_percent" in jetson:
        yield _gauge("almena_jetson_gpu_ratio", "Use of the GPU, 0 to 1.", [({}, jetson["gpu_percent"] / 100)])
    if "gpu_hz" in jetson:
        yield _gauge("almena_jetson_gpu_frequency_hertz", "Clock of the GPU.", [({}, jetson["gpu_hz"])])
    rails = [({"rail": rail}, values["watts"]) for rail, values in jetson.get("rails", {}).items()]
    yield _gauge("almena_jetson_rail_watts", "Power of a rail.", rails)
    zones = [({"zone": zone}, value) for zone, value in jetson.get("temperatures_c", {}).items()]
    yield _gauge("almena_jetson_temperature_celsius", "Temperature of a zone.", zones)
    fans = [({"fan": fan}, value / 100) for fan, value in jetson.get("fans_percent", {}).items()]
    yield _gauge("almena_jetson_fan_ratio", "Speed of a fan, 0 to 1.", fans)


def _dicom_metrics(dicom: Mapping[str, Any]) -> Iterator[Metric]:
    """Nothing where no radiographs are received."""
    if not dicom:
        return
    yield _gauge("almena_dicom_up", "1 while the DICOM process runs.", [({}, dicom["state"] == "up")])
    if dicom["state"] != "up":
        return
    yield _counter(
        "almena_dicom_instances", "Instances and answers, by what became of them.", _by("result", {n: dicom[n] for n in DICOM_COUNTERS})
    )
    yield _counter("almena_dicom_refused", "Instances and callers that were not taken.", _by("reason", dicom["refused"]))
    yield _counter("almena_dicom_failed", "Accepted instances that came to nothing.", _by("reason", dicom["failed"]))
    yield _counter("almena_dicom_send_failures", "Times that the destination did not answer.", [({}, dicom["unreachable"])])
    folders = dicom["folders"]
    yield _gauge("almena_dicom_waiting", "Items in a folder of studies.", _by("folder", {n: held["count"] for n, held in folders.items()}))
    yield _gauge("almena_dicom_size_bytes", "Their size.", _by("folder", {n: held["bytes"] for n, held in folders.items()}))
    ages = {name: held["oldest_age_s"] for name, held in folders.items() if held["oldest_age_s"] is not None}
    yield _gauge("almena_dicom_oldest_age_seconds", "Age of the oldest.", _by("folder", ages))
    yield _gauge("almena_dicom_disk_free_bytes", "Free space where instances are stored.", [({}, dicom["free_bytes"])])
    yield _gauge("almena_dicom_step_seconds", "How long steps take, over the newest.", _quantiles(dicom["seconds"]))
    destination = dicom["destination"]
    if destination["state"] != "none":
        yield _gauge("almena_dicom_destination_up", "0 while answers wait for the destination.", [({}, destination["state"] == "up")])
    if destination["since"] is not None:
        yield _gauge("almena_dicom_destination_down_since_timestamp_seconds", "Since when, Unix time.", [({}, destination["since"])])


def _by(label: str, values: Mapping[str, float]) -> list[tuple[dict[str, str], float]]:
    return [({label: name}, value) for name, value in values.items()]


def _quantiles(figures: Mapping[str, float], **labels: str) -> list[tuple[dict[str, str], float]]:
    """Of all `<stage>_p50_seconds` …"""
    return [
        ({**labels, "stage": match[1], "quantile": f"0.{match[2].rstrip('0')}"}, value)
        for name, value in figures.items()
        if (match := QUANTILES.fullmatch(name))
    ]


def _gauge(name: str, text: str, values: Samples) -> Metric:
    return _filled(GaugeMetricFamily, name, text, values)


def _counter(name: str, text: str, values: Samples) -> Metric:
    return _filled(CounterMetricFamily, name, text, values)


def _filled(family: Any, name: str, text: str, values: Samples) -> Metric:
    samples = list(values)
    metric: Metric = family(name, text, labels=list(samples[0][0]) if samples else [])
    for labels, value in samples:
        metric.add_metric(list(labels.values()), float(value))  # type: ignore[attr-defined]
    return metric
