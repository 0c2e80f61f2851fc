"""What the runtimes reach alone: the yardstick for the pipeline. Uses no call of `Engine`, only the runtimes' own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from engines.backends.base import IMAGE, Backend, Build
from engines.base import EngineError
from engines.card import ModelCard
from engines.convert import converted
from engines.fetch import ensure
from engines.model import EngineOptions, choose_backend

POLICIES: tuple[Literal["throughput", "latency"], ...] = ("throughput", "latency")
TRIALS, TRIAL_S = 3, 0.7
Loop = Callable[[int], float]
"""Infers at least so many pictures and gives the seconds that one took."""


def decode_seconds(clip: Path) -> tuple[int, float]:
    """Decode the whole clip with OpenCV alone: frames, and seconds."""
    import cv2

    capture = cv2.VideoCapture(str(clip), cv2.CAP_FFMPEG)
    frames, start = 0, time.perf_counter()
    while capture.read()[0]:
        frames += 1
    elapsed = time.perf_counter() - start
    capture.release()
    return frames, elapsed


class BareEngine:
    """One model at one precision, built in every way that its runtime offers for throughput; the best of them counts."""

    def __init__(
        self, card: ModelCard, options: EngineOptions, precision: str, size: tuple[int, int], batches: tuple[int, ...] = (1,)
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="almena-bare-")
        backend = choose_backend(card, options.backend)
        model, model_format = converted(card, ensure(card, options.models_dir), backend.formats)
        self._loops: dict[str, Loop] = {}
        for batch in batches:
            for policy in POLICIES:
                order = Build(card.name, model, card.input, batch, *size, precision, policy, options.threads, model_format)
                file = Path(self._folder.name) / f"{policy}-{batch}{backend.suffix}"
                backend.build(order, file)
                picture = np.random.default_rng(1).integers(0, 255, (batch, size[1], size[0], 3), np.uint8)
                self._loops[f"{policy}, batch {batch}"] = _loop(backend, order, file, picture)
        self._best = ""

    def seconds(self, count: int) -> float:
        """Seconds for `count` pictures, one after another as fast as the best way goes; the first call finds that way."""
        if not self._best:
            times: dict[str, list[float]] = {name: [] for name in self._loops}
            for _ in range(TRIALS):
                for name, loop in self._loops.items():
                    times[name].append(loop(max(8, round(TRIAL_S / loop(8)))))
            self._best = min(times, key=lambda name: median(times[name]))
        return self._loops[self._best](count) * count if count else 0.0

    @property
    def way(self) -> str:
        """The way that was best."""
        return self._best

    def close(self) -> None:
        """Free everything."""
        self._loops.clear()
        self._folder.cleanup()


def _loop(backend: Backend, order: Build, file: Path, picture: NDArray[np.uint8]) -> Loop:
    return {"openvino": _openvino, "onnxruntime": _onnxruntime}[backend.name](order, file, picture)


def imported(order: Build, file: Path) -> Any:
    """The compiled model that OpenVINO makes of an exported one. Raises EngineError unless it computes in the precision ordered."""
    import openvino as ov

    from engines.backends.openvino import OpenVinoBackend, precision

    compiled = ov.Core().import_model(file.read_bytes(), "CPU", OpenVinoBackend().config(order))
    if precision(compiled) != order.precision:
        raise EngineError(f"{order.name}: OpenVINO computes in {precision(compiled)}, not in {order.precision}: no yardstick")
    return compiled


def _openvino(order: Build, file: Path, picture: NDArray[np.uint8]) -> Loop:
    import openvino as ov

    compiled = imported(order, file)
    requests = ov.AsyncInferQueue(compiled)
    tensor = ov.Tensor(picture, shared_memory=True)

    def run(count: int) -> float:
        calls, start = -(-count // len(picture)), time.perf_counter()
        for _ in range(calls):
            requests.start_async({0: tensor})
        requests.wait_all()
        return (time.perf_counter() - start) / (calls * len(picture))

    run(len(requests) * len(picture))

    return run


def _onnxruntime(order: Build, file: Path, picture: NDArray[np.uint8]) -> Loop:
    import onnxruntime as ort

    threads = order.threads or os.cpu_count() or 1
    callers = threads if order.policy == "throughput" else 1
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads // callers
    session = ort.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])

    def call(_: int) -> None:
        session.run(None, {IMAGE: picture})

    def run(count: int) -> float:
        calls, start = -(-count // len(picture)), time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(call, range(calls)))
        return (time.perf_counter() - start) / (calls * len(picture))

    run(callers)

    return run
