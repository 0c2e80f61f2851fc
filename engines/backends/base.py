"""What every backend does: build a model for one input shape, and load what it built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from engines.base import Engine
from engines.card import Format, ModelInput
from engines.errors import ModelFileError

if TYPE_CHECKING:
    from engines.backends.trtexec import Figures

IMAGE = "image"
"""The name of a built engine's one input: (batch, height, width, channels) uint8, blue-green-red or grey."""

FLOAT_INPUT = "only LiteRT feeds quantised inputs: choose backend litert, or export the model with a float32 input"
"""What to do about a model whose input is of integers."""

Policy = Literal["throughput", "latency"]
Flavour = Literal["u8s8", "s8s8"]
"""Of QDQ files: unsigned activations, or symmetric signed ones."""
Precision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclass(frozen=True, slots=True)
class Build:
    """What to build: a model file and how it is fed, for one shape, at one precision, for one unit of the backend.

    `model` is in `format`; at int8 it is the QDQ file of a calibration. `threads`: processor threads in all; None: all.
    `streams`: calls at once; None: what the policy asks for. `least`: the engine takes `least` to `batch` pictures; None: exactly `batch`.
    `outputs`: those that the card's decoder reads; conversions may name them otherwise.
    """

    name: str
    model: Path
    input: ModelInput
    batch: int
    width: int
    height: int
    precision: str
    policy: Policy
    threads: int | None = None
    format: Format = "onnx"
    unit: str = "cpu"
    streams: int | None = None
    least: int | None = None
    outputs: tuple[str, ...] = ()

    def require_channels(self, name: str, shape: Sequence[int | None]) -> None:
        """Raise ModelFileError where the channels of the model's own input are not where the card says, or not as many."""
        axis, other = (1, 3) if self.input.layout == "NCHW" else (3, 1)
        channels = self.input.channels
        if len(shape) == 4 and (shape[axis] == channels or (shape[axis] is None and shape[other] != channels)):
            return
        shown = ", ".join("free" if size is None else str(size) for size in shape)
        wanted = "(N, {0}, H, W)" if axis == 1 else "(N, H, W, {0})"
        raise ModelFileError(
            f"{self.name}: input {name!r} of {self.model.name} is ({shown}), and {self.input.layout} of {self.input.colour} would be"
            f" {wanted.format(channels)}: correct input.layout and input.colour in the card"
        )

    def output_names(self, known: Sequence[Sequence[str]]) -> list[str]:
        """What the built engine's outputs are called, given the names that each has in the model, the best first.

        An only output has the name that the decoder reads; one of several has it where it is among its names.
        """
        if len(known) == 1 and len(self.outputs) == 1:
            return list(self.outputs)
        return [next((name for name in names if name in self.outputs), names[0]) for names in known]


class Backend(ABC):
    """One inference runtime. Normalisation, layout and colour order become part of what it builds."""

    name: ClassVar[str]
    formats: ClassVar[tuple[Format, ...]]
    """Formats of model files that it reads, best first."""
    suffix: ClassVar[str]
    """Suffix of the files it builds."""
    flavour: ClassVar[Flavour] = "u8s8"
    """Of the QDQ files that it is fast with, unless `flavour_on` says otherwise."""

    @abstractmethod
    def version(self) -> str:
        """The runtime's version."""

    @abstractmethod
    def units(self) -> tuple[str, ...]:
        """What it can compute on here, best first: cpu, gpu, npu, dla0 …"""

    def missing(self) -> dict[str, str]:
        """What it could compute on elsewhere, and why not here."""
        return {}

    @abstractmethod
    def device(self, unit: str) -> str:
        """What that unit is: with other hardware or another driver this string differs."""

    @abstractmethod
    def precisions(self, unit: str) -> tuple[str, ...]:
        """Those that it computes in fast there, fastest first; fp32 is among them. int8 needs a calibrated model."""

    def flavour_on(self, unit: str) -> Flavour:
        """Of the QDQ files that a unit is fast with."""
        return self.flavour

    def cross_check(self, build: Build) -> Figures | None:
        """What the runtime's own benchmark program makes of that build, in minutes; None where there is none. Raises EngineError."""
        return None

    @abstractmethod
    def build(self, build: Build, target: Path) -> None:
        """Write a runnable engine to `target`. Raises EngineError."""

    @abstractmethod
    def load(self, build: Build, built: Path) -> Engine:
        """Load what `build` wrote. Raises EngineError."""
