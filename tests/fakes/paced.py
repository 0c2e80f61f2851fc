"""Backends whose speed, accuracy and faults a test sets, and a site with a small classifier that they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from calibration import matrix, scenarios, trials, tuner
from engines import store, workshop
from engines.backends.base import IMAGE, Backend, Build
from engines.base import Engine, EngineError, T, Tensor, TensorSpec
from engines.card import ModelCard, ModelInput, card
from engines.errors import FetchError
from engines.fetch import assets
from engines.files import sha256
from engines.model import EngineOptions
from engines.parity import portraits
from engines.registry import BACKENDS, MODULES


@dataclass
class Clock:
    """Time that goes on only when an engine works or is built."""

    now: float = 0.0

    def __call__(self) -> float:
        self.now += 1e-7  # something always takes some time
        return self.now


CLOCK = Clock()
FEED = ModelInput(layout="NHWC", colour="BGR", sizes=((16, 16),), resize="stretch")
BUILD_S = 0.5


class PacedEngine(Engine):
    """Takes `seconds` for a call; its answers are off by `error`."""

    def __init__(self, build: Build, backend: str, seconds: Callable[[], float], error: float, parallel: int) -> None:
        self.name, self.backend, self.precision, self.parallel = build.name, backend, build.precision, parallel
        self.inputs = (TensorSpec(IMAGE, "uint8", (build.batch, build.height, build.width, build.input.channels)),)
        self.outputs = (TensorSpec("scores", "float32", (build.batch, 2)),)
        self._seconds, self._error = seconds, error

    def _read(self, tensors: Mapping[str, Tensor], reader: Callable[[Mapping[str, Tensor]], T]) -> T:
        CLOCK.now += self._seconds()
        mean = tensors[IMAGE].reshape(len(tensors[IMAGE]), -1).mean(1, dtype=np.float32) / 255 + self._error
        return reader({"scores": np.stack([1 - mean, mean], 1).astype(np.float32)})


class PacedBackend(Backend):
    """Milliseconds of a call by precision; `errors` by precision; `broken` precisions cannot be built."""

    formats = ("onnx",)
    suffix = ".paced"
    pace: dict[str, float]
    errors: dict[str, float] = {}
    broken: tuple[str, ...] = ()
    factor = 1.0
    streams_help = 1.0
    """By how much a call gets shorter with 2 streams, which are 1 caller."""
    told_device = "a device"

    def version(self) -> str:
        return "1"

    def units(self) -> tuple[str, ...]:
        return ("cpu",)

    def device(self, unit: str) -> str:
        return type(self).told_device

    def precisions(self, unit: str) -> tuple[str, ...]:
        return tuple(self.pace)

    def build(self, build: Build, target: Path) -> None:
        if build.precision in self.broken:
            raise EngineError(f"{build.name}: operator Nothing is unknown")
        CLOCK.now += BUILD_S
        target.write_text(build.precision)

    def load(self, build: Build, built: Path) -> Engine:
        kind = type(self)
        shorter = kind.streams_help if build.streams == 2 else 1.0
        milliseconds = self.pace[build.precision] * build.batch
        return PacedEngine(build, self.name, lambda: milliseconds * kind.factor * shorter / 1e3, self.errors.get(build.precision, 0.0), 1)


class Quick(PacedBackend):
    name = "quick"
    pace = {"bf16": 4.0, "fp32": 9.0}


class Slow(PacedBackend):
    name = "slow"
    pace = {"fp32": 14.0}


class Wrong(PacedBackend):
    name = "wrong"
    pace = {"fp16": 1.0, "fp32": 20.0}
    errors = {"fp16": 0.4}


class Broken(PacedBackend):
    name = "broken"
    pace = {"bf16": 1.0, "fp32": 20.0}
    broken = ("bf16", "fp32")


class Frugal(PacedBackend):
    name = "frugal"
    pace = {"bf16": 9.0, "fp32": 9.02}


class Site:
    """Folders of models and engines, and the card of a small classifier."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.options = EngineOptions(folder / "models", folder / "engines")
        for kind in (Quick, Slow, Wrong, Broken, Frugal):
            monkeypatch.setitem(BACKENDS, kind.name, f"tests.fakes.paced:{kind.__name__}")
            monkeypatch.setitem(MODULES, kind.name, "numpy")
        monkeypatch.setattr(workshop, "ensure_asset", self._put_portrait)
        monkeypatch.setattr(store, "MEASURE_S", 0.01)
        monkeypatch.setattr(trials.gc, "collect", lambda: 0)  # slow in a large process, and these engines hold nothing
        monkeypatch.setattr(scenarios, "perf_counter", CLOCK)
        for module in (tuner, matrix):
            monkeypatch.setattr(module, "monotonic", CLOCK)
        self.card_file = folder / "small.yaml"
        self.card = self._write_card()

    def _put_portrait(self, name: str, directory: Path, _progress: object) -> None:
        if name not in portraits():
            raise FetchError(name)
        directory.mkdir(exist_ok=True)
        noise = np.random.default_rng(len(name)).integers(0, 255, (64, 64, 3), np.uint8)
        assert cv2.imwrite(str(directory / assets()[name].filename), noise)

    def _write_card(self) -> ModelCard:
        file = self.card_file.with_suffix(".onnx")
        file.write_bytes(b"only the fakes read it")
        content = {
            "name": "small", "version": "1", "title": "Small", "task": "classification", "licence": "none", "training_data": "none",
            "source": {"kind": "local", "path": file.name}, "sha256": sha256(file), "format": "onnx",
            "input": FEED.model_dump(mode="json"),
            "decoder": {"name": "classification", "params": {"output": "scores"}}, "labels": ["dark", "bright"],
            "thresholds": {"chosen_on": "nothing"}, "allowance": {"probability": 0.1, "agreement": 0.5},
        }  # fmt: skip
        self.card_file.write_text(yaml.safe_dump(content))
        return card(str(self.card_file))
