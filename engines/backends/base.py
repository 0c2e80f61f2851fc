"""What every backend does: build a model for one input shape, and load what it built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from engines.base import Engine
from engines.card import ModelInput

IMAGE = "image"
"""The name of a built engine's one input: (batch, height, width, 3) uint8, blue-green-red."""


@dataclass(frozen=True, slots=True)
class Build:
    """What to build: a model file and how it is fed, for one shape, at one precision."""

    name: str
    model: Path
    input: ModelInput
    batch: int
    width: int
    height: int
    precision: str
    policy: Literal["throughput", "latency"]
    threads: int | None = None


class Backend(ABC):
    """One inference runtime. Normalisation, layout and colour order become part of what it builds."""

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    """Formats of model files that it reads: onnx, tflite."""
    suffix: ClassVar[str]
    """Suffix of the files it builds."""

    @abstractmethod
    def version(self) -> str:
        """The runtime's version."""

    @abstractmethod
    def device(self) -> str:
        """What it runs on: with other hardware this string differs."""

    @abstractmethod
    def precisions(self) -> tuple[str, ...]:
        """Those that run fast here, fastest first; fp32 is among them."""

    @abstractmethod
    def build(self, build: Build, target: Path) -> None:
        """Write a runnable engine to `target`. Raises EngineError."""

    @abstractmethod
    def load(self, build: Build, built: Path) -> Engine:
        """Load what `build` wrote. Raises EngineError."""
