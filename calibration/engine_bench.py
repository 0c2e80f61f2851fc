"""One engine in detail: MLPerf's scenarios, what Almena's call costs over the runtime's own, and how TensorFlow does beside it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from statistics import median
from typing import Any

from calibration.bare import Bare, bare, tensorflow_signature
from calibration.loadgen import loadgen
from calibration.power import PowerMeter, cost
from calibration.scenarios import Runner, multi_stream, noise, offline, runner, side_by_side, single_stream, warm
from engines.backends.base import IMAGE
from engines.base import EngineError
from engines.card import ModelCard
from engines.model import EngineOptions, Workshop, judge_of
from engines.tuning import Choice

GOAL_RATIO, GOAL_US = 0.05, 50.0
"""Almena's call, alone and with as many at once as the engine serves, is at most so much longer than the runtime's: a share, or µs."""
HOST_MEMORY = "nothing is transferred: the processor computes in the host's memory"
CALLS = 20
PARTS = 4
"""Turns into which a round of throughput is cut."""
Told = Callable[[str], None]


class EngineBench:
    """One engine, for `batch` pictures at once. `choice` None: as settings and tuning say.

    Everything compared takes turns for `repeats` rounds of `seconds` each; medians count, and ratios are taken within a round.
    """

    def __init__(
        self, card: ModelCard, options: EngineOptions, choice: Choice | None, batch: int | None, seconds: float, repeats: int
    ) -> None:
        self.card = card
        self._options = options
        self._seconds = seconds
        self._repeats = repeats
        self._shop = Workshop(card, options, choice)
        self._size = card.input.sizes[0]
        self.batch = batch or self._shop.choice.batch
        judge = judge_of(card, self._size, options.models_dir)
        self._load_s = time.monotonic()
        self.engine, self.passport = self._shop.open(self._size, judge, self.batch)
        self._load_s = time.monotonic() - self._load_s
        self._runner = runner(self.engine)
        warm(self._runner)

    def run(
        self, meter: PowerMeter, tariff: float | None, against_tensorflow: bool, with_loadgen: bool, cross_check: bool, told: Told
    ) -> dict[str, Any]:
        """All figures, as JSON."""
        with ExitStack() as stack:
            stack.callback(self.engine.close)
            told("scenarios")
            found = self._identity() | {"scenarios": self._scenarios(), "transfers": self._transfers()}
            if with_loadgen:
                told("LoadGen")
                found["loadgen"] = loadgen(self._runner, found["scenarios"]["offline"]["result_per_second"], self._seconds)
            told("the runtime's own loops")
            found["overhead"] = self._overhead()
            if cross_check:
                told("the runtime's own benchmark program")
                found["cross_check"] = self._cross_check(found)
            if against_tensorflow:
                told("TensorFlow")
                found["against"] = self._against_tensorflow()
            told("energy")
            found["energy"] = self._energy(meter, tariff)
        return found

    def _identity(self) -> dict[str, Any]:
        identity = self.passport.identity
        return {
            "model": self.card.model_id,
            **{key: getattr(identity, key) for key in ("backend", "backend_version", "unit", "device", "policy", "threads", "streams")},
            "precision": self.engine.precision,
            "batch": self.batch,
            "size": list(self._size),
            "parallel": self.engine.parallel,
            "why": self._shop.why,
            "parity": self.passport.parity.model_dump(exclude_none=True) if self.passport.parity else None,
            "opened_s": round(self._load_s, 3),
            "seconds": self._seconds,
            "repeats": self._repeats,
        }

    def _scenarios(self) -> dict[str, Any]:
        """Of MLPerf's rules, section 3; the median round of each."""
        single = [single_stream(self._runner, self._seconds) for _ in range(self._repeats)]
        multi = [multi_stream(self._runner, self._seconds) for _ in range(self._repeats)]
        whole = [offline(self._runner, self._seconds).per_second for _ in range(self._repeats)]
        one, eight = (sorted(runs, key=lambda run: run.p50_ms)[len(runs) // 2] for runs in (single, multi))
        return {
            "single_stream": asdict(one) | {"samples_per_query": self.batch, "result_p90_ms": one.p90_ms},
            "multi_stream": asdict(eight) | {"samples_per_query": 8, "result_p99_ms": eight.p99_ms},
            "offline": {"result_per_second": median(whole), "rounds": whole},
        }

    def _transfers(self) -> dict[str, Any]:
        """Calls as they are include what moves between host and device; without it, where the engine can tell."""
        inclusive = single_stream(self._runner, self._seconds / 2).p50_ms
        if self.passport.identity.unit == "cpu":
            return {"inclusive_p50_ms": inclusive, "exclusive_p50_ms": inclusive, "note": HOST_MEMORY}
        tensors = {IMAGE: noise(tuple(size or 1 for size in self.engine.inputs[0].shape))}
        told = [seconds for _ in range(CALLS) if (seconds := self.engine.device_seconds(tensors)) is not None]
        note = "" if told else f"{self.engine.backend} does not tell what the device alone takes"
        return {"inclusive_p50_ms": inclusive, "exclusive_p50_ms": 1e3 * median(told) if told else None, "note": note}

    def _overhead(self) -> dict[str, Any]:
        """Almena's engine call against the runtime's own loop, over the same file at the same settings."""
        order = self._shop.order(self._size, self.batch)(self.passport.ordered)
        try:
            yardstick = bare(self._shop.backend, order, self._shop.store.directory / self.passport.file)
        except EngineError as error:
            return {"missing": str(error)}
        return self._compared(yardstick)

    def _compared(self, yardstick: Bare) -> dict[str, Any]:
        plain = Runner(yardstick.call, self.batch, 1)
        calls: list[tuple[float, float]] = []
        rates: list[tuple[float, float]] = []
        for _ in range(self._repeats):
            mine, theirs = side_by_side(self._runner, plain, self._seconds)
            calls.append((mine.p50_ms, theirs.p50_ms))
            for _ in range(PARTS):
                own = offline(self._runner, self._seconds / PARTS).per_second
                rates.append((own, 1 / yardstick.loop(max(self.batch, math.ceil(own * self._seconds / PARTS)))))
        return overhead(calls, rates, self.batch)

    def _cross_check(self, found: dict[str, Any]) -> dict[str, Any]:
        """What trtexec makes of the same file at the same settings, and what was found here as a share of it."""
        figures = self._shop.backend.cross_check(self._shop.order(self._size, self.batch)(self.passport.ordered))
        if figures is None:
            return {"missing": f"{self.engine.backend} has no benchmark program here; TensorRT's is trtexec"}
        rate = figures.calls_per_second * self.batch
        return asdict(figures) | {
            "images_per_second": rate,
            "throughput_ratio": found["scenarios"]["offline"]["result_per_second"] / rate,
            "latency_ratio": found["transfers"]["inclusive_p50_ms"] / figures.latency_ms,
        }

    def _against_tensorflow(self) -> dict[str, Any]:
        """Images a second beside TensorFlow's own signature at the same batch, in turns; its callers: one, or one per core if better."""
        signature = tensorflow_signature(self.card, self._options.models_dir, self.batch)
        ways = {callers: Runner(signature.call, self.batch, callers) for callers in sorted({1, os.cpu_count() or 1})}
        for way in ways.values():
            warm(way)
        rounds: list[tuple[float, dict[int, float]]] = []
        for _ in range(self._repeats):
            own = offline(self._runner, self._seconds).per_second
            rounds.append((own, {callers: offline(way, self._seconds).per_second for callers, way in ways.items()}))
        callers = max(ways, key=lambda count: median(theirs[count] for _, theirs in rounds))
        return {
            "baseline": "TensorFlow SavedModel signature serving_default, fp32, input normalised beforehand",
            "batch": self.batch,
            "callers": callers,
            "almena_per_second": median(own for own, _ in rounds),
            "baseline_per_second": median(theirs[callers] for _, theirs in rounds),
            "ratio": median(own / theirs[callers] for own, theirs in rounds),
            "ratios": [own / theirs[callers] for own, theirs in rounds],
        }

    def _energy(self, meter: PowerMeter, tariff: float | None) -> dict[str, Any]:
        if not meter.sensors:
            return {"missing": f"not available: {meter.missing}"}
        with meter.run() as energy:
            done = offline(self._runner, max(2.0, self._seconds))
        used = energy[0].per_inference(done.samples)
        content = {"source": energy[0].source, "idle_watts": energy[0].idle_watts, **used}
        return content | {"million": cost(used["joules_per_inference"], tariff or 0.0)}


def overhead(calls: list[tuple[float, float]], rates: list[tuple[float, float]], batch: int) -> dict[str, Any]:
    """What Almena costs: `calls` are milliseconds of single calls, `rates` pictures a second, Almena's and the runtime's own of each round.

    Among as many calls as run at once, a call's time is that in which the next one ends.
    """
    turns = [(1e3 * batch / mine, 1e3 * batch / theirs) for mine, theirs in rates]
    call = {"almena_p50_ms": median(mine for mine, _ in calls), "bare_p50_ms": median(theirs for _, theirs in calls)} | _longer(calls)
    rate = {"almena_per_second": median(mine for mine, _ in rates), "bare_per_second": median(theirs for _, theirs in rates)}
    slower = _longer(turns)
    throughput = rate | {"ratio": median(mine / theirs for mine, theirs in rates), "microseconds": slower["microseconds"]}
    return {"call": call, "throughput": throughput, "within_goal": _within(call) and _within(slower)}


def _longer(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """By how much the first of two times in milliseconds is longer, as a ratio and in microseconds, in the median pair."""
    extra = 1e3 * median(mine - theirs for mine, theirs in pairs)
    return {"ratio": median(mine / theirs for mine, theirs in pairs), "microseconds": extra}


def _within(found: dict[str, float]) -> bool:
    return found["ratio"] <= 1 + GOAL_RATIO or found["microseconds"] <= GOAL_US
