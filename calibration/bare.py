"""What the runtimes reach alone: the yardstick for the pipeline. Uses no call of `Engine`, only the runtimes' own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from calibration.scenarios import Runner, noise
from engines.backends.base import IMAGE, Backend, Build
from engines.base import EngineError
from engines.card import ModelCard
from engines.convert import converted
from engines.errors import MissingRuntimeError
from engines.fetch import ensure
from engines.model import EngineOptions, Workshop
from engines.tuning import Choice

POLICIES: tuple[Literal["throughput", "latency"], ...] = ("throughput", "latency")
TRIALS, TRIAL_S = 3, 0.7
Loop = Callable[[int], float]
"""Infers at least so many pictures and gives the seconds that one took."""


@dataclass(frozen=True, slots=True)
class Bare:
    """A runtime without Almena: `call` infers one batch and waits for it; `loop` infers many as fast as the runtime's own ways allow."""

    call: Callable[[], Any]
    loop: Loop


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
        self, card: ModelCard, options: EngineOptions, like: Choice, size: tuple[int, int], batches: tuple[int, ...] = (1,)
    ) -> None:
        """`like`: whose backend, unit and precision it has."""
        self._folder = tempfile.TemporaryDirectory(prefix="almena-bare-")
        self._loops: dict[str, Loop] = {}
        for batch in batches:
            for policy in POLICIES:
                way = like.model_copy(update={"policy": policy, "threads": options.threads, "streams": None, "batch": batch})
                shop = Workshop(card, options, way)
                order = shop.order(size, batch)(way.precision)
                file = Path(self._folder.name) / f"{policy}-{batch}{shop.backend.suffix}"
                shop.backend.build(order, file)
                self._loops[f"{policy}, batch {batch}"] = bare(shop.backend, order, file, spinning=True).loop
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


def bare(backend: Backend, order: Build, file: Path, spinning: bool = False) -> Bare:
    """The runtime's own loops over an engine that the backend built, on a picture of noise.

    spinning: ONNX Runtime's threads wait for work without sleeping, its default, which Almena turns off. Raises EngineError for a
    runtime whose own loops are not written here.
    """
    picture = noise((order.batch, order.height, order.width, order.input.channels))
    if backend.name == "openvino":
        return _openvino(order, file, picture)
    if backend.name == "onnxruntime":
        return _onnxruntime(order, file, picture, spinning)
    raise EngineError(f"there is no bare loop of {backend.name} to compare with")


def imported(order: Build, file: Path) -> Any:
    """The compiled model that OpenVINO makes of an exported one. Raises EngineError unless its floats are those that the order means."""
    import openvino as ov

    from engines.backends.openvino import OpenVinoBackend

    config = OpenVinoBackend().config(order)
    compiled = ov.Core().import_model(file.read_bytes(), order.unit.upper(), config)
    found = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if found != config["INFERENCE_PRECISION_HINT"]:
        raise EngineError(f"{order.name}: OpenVINO computes in {found}, not in {config['INFERENCE_PRECISION_HINT']}: no yardstick")
    return compiled


def _openvino(order: Build, file: Path, picture: NDArray[np.uint8]) -> Bare:
    import openvino as ov

    compiled = imported(order, file)
    requests = ov.AsyncInferQueue(compiled)
    tensor = ov.Tensor(picture, shared_memory=True)
    request = compiled.create_infer_request()
    request.set_input_tensor(0, tensor)

    def call() -> None:
        request.start_async()
        request.wait()

    def run(count: int) -> float:
        calls, start = -(-count // len(picture)), time.perf_counter()
        for _ in range(calls):
            requests.start_async({0: tensor})
        requests.wait_all()
        return (time.perf_counter() - start) / (calls * len(picture))

    call()
    run(len(requests) * len(picture))
    return Bare(call, run)


def _onnxruntime(order: Build, file: Path, picture: NDArray[np.uint8], spinning: bool) -> Bare:
    import onnxruntime as ort

    threads = order.threads or os.cpu_count() or 1
    callers = order.streams or (threads if order.policy == "throughput" else 1)
    options = ort.SessionOptions()
    options.intra_op_num_threads = max(1, threads // callers)
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])

    def call(_: int = 0) -> None:
        session.run(None, {IMAGE: picture})

    def run(count: int) -> float:
        calls, start = -(-count // len(picture)), time.perf_counter()
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(call, range(calls)))
        return (time.perf_counter() - start) / (calls * len(picture))

    run(callers)
    return Bare(call, run)


def tensorflow_signature(card: ModelCard, models_dir: Path, batch: int) -> Runner:
    """TensorFlow alone: the signature `serving_default` of the card's SavedModel, on pictures that are normalised already.

    TensorFlow computes in FP32 on all processors; `parallel` is 1. Raises MissingRuntimeError, ModelFileError.
    """
    if find_spec("tensorflow") is None:
        raise MissingRuntimeError("the baseline needs TensorFlow, which is not installed: pip install 'almena[tensorflow]'")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    model, _ = converted(card, ensure(card, models_dir), ("savedmodel",))
    loaded = tf.saved_model.load(str(model))
    signature = loaded.signatures["serving_default"]
    name = next(iter(signature.structured_input_signature[1]))
    width, height = card.input.sizes[0]
    picture = noise((batch, height, width, card.input.channels)).astype(np.float32)
    normalised = (picture - np.array(card.input.mean, np.float32)) / np.array(card.input.scale, np.float32)
    tensor = tf.constant(normalised if card.input.layout == "NHWC" else normalised.transpose(0, 3, 1, 2), tf.float32)

    def call(_loaded: Any = loaded) -> dict[str, Any]:
        return {key: value.numpy() for key, value in signature(**{name: tensor}).items()}

    return Runner(call, batch, 1)
