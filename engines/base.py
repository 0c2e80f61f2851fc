"""The one interface to inference runtimes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from engines.errors import EngineError as EngineError
from engines.errors import NotFiniteError

if TYPE_CHECKING:
    from typing_extensions import Self

Tensor = NDArray[Any]
Writer = Callable[[Tensor], None]
"""Writes a whole input, of the engine's shape and dtype, into memory that it is given."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Name, numpy dtype name and shape of a tensor; None marks a free dimension."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def accepts(self, tensor: Tensor) -> bool:
        """Whether dtype and every fixed dimension fit."""
        return tensor.dtype == self.dtype and (tensor.shape == self.shape or self._fits(tensor.shape))

    def _fits(self, shape: tuple[int, ...]) -> bool:
        return len(shape) == len(self.shape) and all(want in (None, got) for want, got in zip(self.shape, shape, strict=True))


class Engine(ABC):
    """A loaded, runnable model on one backend. `infer` may be called from several threads at once.

    `parallel` is how many calls at once this engine was built to serve; `precision` is what it computes in
    (fp32, bf16, fp16, int8), read back from the runtime, not the wish.
    """

    name: str
    backend: str
    precision: str
    parallel: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def infer(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run once. Raises EngineError on a missing, unknown or ill-shaped tensor and on outputs that are not finite.

        The arrays returned are the caller's own.
        """
        return self.read(tensors, lambda outputs: {name: tensor.copy() for name, tensor in outputs.items()})

    def read(self, tensors: Mapping[str, Tensor | Writer], reader: Callable[[Mapping[str, Tensor]], T], picked: Collection[str] = ()) -> T:
        """Run once as `infer` does, and give what `reader` makes of the outputs. They are not copied: `reader` may keep nothing of them.

        An input may be a writer, which spares a copy where the engine has memory for it. `picked`: outputs that are not checked as a
        whole, because the reader picks few values of them; whoever uses these raises `not_finite` where they are not.
        """
        if len(tensors) != len(self.inputs) or any(spec.name not in tensors for spec in self.inputs):
            raise EngineError(f"{self.name}: inputs must be {sorted(spec.name for spec in self.inputs)}, not {sorted(tensors)}")
        for spec in self.inputs:
            tensor = tensors[spec.name]
            if not callable(tensor) and not spec.accepts(tensor):
                raise EngineError(f"{self.name}: input {spec.name!r} must be {spec.dtype} {spec.shape}, not {tensor.dtype} {tensor.shape}")

        def checked(outputs: Mapping[str, Tensor]) -> T:
            for name, tensor in outputs.items():
                if name not in picked and not _finite(tensor):
                    raise self.not_finite(name)
            return reader(outputs)

        return self._read({spec.name: self._input(spec, tensors[spec.name]) for spec in self.inputs}, checked)

    def not_finite(self, name: str) -> NotFiniteError:
        """What to raise where an output holds NaN or infinity."""
        advice = "check the card's mean and scale, and the model itself" if self.precision == "fp32" else "try `engines.precision: fp32`"
        return NotFiniteError(f"{self.name}: output {name!r} holds NaN or infinity at {self.precision}; {advice}")

    def device_seconds(self, tensors: Mapping[str, Tensor]) -> float | None:
        """Seconds that the device alone computes for one call, without what is moved to and from it; None where it cannot tell."""
        return None

    def _input(self, spec: TensorSpec, given: Tensor | Writer) -> Any:
        """What `_read` gets for an input: an array, unless the engine has memory that a writer can write into."""
        if not callable(given):
            return given
        target = np.empty([size or 1 for size in spec.shape], spec.dtype)
        given(target)
        return target

    @abstractmethod
    def _read(self, tensors: Mapping[str, Tensor], reader: Callable[[Mapping[str, Tensor]], T]) -> T: ...

    def close(self) -> None:
        """Free what the runtime holds. Calling it twice does no harm."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _finite(tensor: Tensor) -> bool:
    """By its product with itself, which is the fastest sum; where that overflows, value by value."""
    flat = tensor.reshape(-1)
    return math.isfinite(flat.dot(flat)) or bool(np.isfinite(flat).all())
