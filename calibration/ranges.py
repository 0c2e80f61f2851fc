"""What values a model's tensors take on samples, and the ranges that 8 bits shall cover.

One pass finds the extremes, a second one histograms; a sample's tensors are let go before the next comes. All three kinds of ranges
come from the same histograms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from engines.calibrated import Ranges
from engines.results import F32

HALF = 2048
"""Bins on each side of zero."""
MOST = 1 << 16
"""Values of a tensor and sample that are counted in the histogram at most, evenly spaced."""
PERCENTILE = 99.99
LEVELS = 128
STEP = 16
"""Bins between two thresholds that the entropy search tries."""

Progress = Callable[[int, int], None]
"""Called with what is done and the whole."""


@dataclass(slots=True)
class Observed:
    """Of one tensor: `low` and `high` of all its values, and a histogram (2 · HALF,) over -top … top, top = max(|low|, |high|)."""

    low: float
    high: float
    counts: NDArray[np.int64]

    @property
    def top(self) -> float:
        """The largest absolute value."""
        return max(abs(self.low), abs(self.high))


def observe(model: Any, samples: Sequence[F32], progress: Progress) -> dict[str, Observed]:
    """All float tensors of an ONNX model on `samples`, each shaped as the model's input. Raises CalibrationError.

    `progress` counts two passes over the samples.
    """
    session, names = _opened(model)
    found: dict[str, Observed] = {}
    for index, sample in enumerate(samples):
        for name, tensor in _run(session, names, sample):
            low, high = float(tensor.min(initial=0.0)), float(tensor.max(initial=0.0))
            if not np.isfinite([low, high]).all():
                raise CalibrationError(f"tensor {name!r} holds NaN or infinity at FP32 on sample {index}; the model or its card is wrong")
            if name in found:
                low, high = min(low, found[name].low), max(high, found[name].high)
            found[name] = Observed(low, high, np.zeros(2 * HALF, np.int64))
        progress(index + 1, 2 * len(samples))
    for index, sample in enumerate(samples):
        for name, tensor in _run(session, names, sample):
            _count(found[name], tensor)
        progress(len(samples) + index + 1, 2 * len(samples))
    return found


def peaks(model: Any, samples: Sequence[F32], progress: Progress) -> dict[str, NDArray[np.float64]]:
    """Of each tensor of four dimensions, channels first: the largest absolute value of each channel on `samples`."""
    session, names = _opened(model)
    found: dict[str, NDArray[np.float64]] = {}
    for index, sample in enumerate(samples):
        for name, tensor in _run(session, names, sample):
            if tensor.ndim == 4:
                reached = np.maximum(tensor.max((0, 2, 3)), -tensor.min((0, 2, 3))).astype(np.float64)
                found[name] = np.maximum(found.get(name, reached), reached)
        progress(index + 1, len(samples))
    return found


def chosen(observed: Observed, kind: Ranges) -> tuple[float, float]:
    """The range to cover, which holds 0."""
    if kind == "minmax" or not observed.counts.any() or not observed.top:
        return observed.low, observed.high
    if kind == "percentile":
        return _percentile(observed)
    top = _entropy_threshold(observed)
    return max(observed.low, -top), min(observed.high, top)


def _opened(model: Any) -> tuple[Any, list[str]]:
    """A session that gives out the input and every inner float tensor."""
    import onnx
    import onnxruntime as ort

    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    inferred = onnx.shape_inference.infer_shapes(whole)
    floats = {value.name for value in inferred.graph.value_info if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    outputs = {value.name for value in whole.graph.output}
    inner = [name for node in whole.graph.node for name in node.output if name in floats - outputs]
    whole.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inner)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(whole.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session, [value.name for value in session.get_outputs() if value.type == "tensor(float)"]


def _run(session: Any, names: list[str], sample: F32) -> Iterable[tuple[str, F32]]:
    own = session.get_inputs()[0].name
    yield own, sample
    yield from zip(names, session.run(names, {own: sample}), strict=True)


def _count(observed: Observed, tensor: F32) -> None:
    if not observed.top:
        return
    values = tensor.ravel()[:: max(1, tensor.size // MOST)]
    places = ((values / np.float32(observed.top) + 1) * HALF).astype(np.int64)
    observed.counts += np.bincount(np.clip(places, 0, 2 * HALF - 1), minlength=2 * HALF)


def _percentile(observed: Observed) -> tuple[float, float]:
    """Without the outermost (100 - PERCENTILE) / 2 percent on each side."""
    share = np.cumsum(observed.counts) / observed.counts.sum()
    outside = (100 - PERCENTILE) / 200
    edges = np.linspace(-observed.top, observed.top, 2 * HALF + 1)
    low = edges[np.searchsorted(share, outside, side="right")]
    high = edges[min(int(np.searchsorted(share, 1 - outside)) + 1, 2 * HALF)]
    return max(observed.low, min(float(low), 0.0)), min(observed.high, max(float(high), 0.0))


def _entropy_threshold(observed: Observed) -> float:
    """The absolute value at which clipping changes the distribution least: the smallest Kullback-Leibler divergence between the
    histogram clipped there and the same in 8 bits (Migacz, "8-bit inference with TensorRT", GTC 2017).

    The bin of zero is left out: exact zeros, of which a ReLU makes many, cost nothing at any scale.
    """
    counts = (observed.counts[HALF:] + observed.counts[:HALF][::-1]).astype(np.float64)
    counts[0] = counts[1]
    best, threshold = np.inf, HALF
    for stop in range(LEVELS, HALF + 1, STEP):
        clipped = counts[:stop].copy()
        clipped[-1] += counts[stop:].sum()
        divergence = _divergence(clipped, counts[:stop])
        if divergence < best:
            best, threshold = divergence, stop
    return observed.top * threshold / HALF


def _divergence(clipped: NDArray[np.float64], inside: NDArray[np.float64]) -> float:
    """Of `clipped` from `inside` spread evenly over the filled bins of each of LEVELS levels."""
    starts = np.arange(LEVELS) * len(inside) // LEVELS
    filled = inside > 0
    sums, widths = np.add.reduceat(inside, starts), np.add.reduceat(filled.astype(np.float64), starts)
    level = np.repeat(np.divide(sums, widths, out=np.zeros(LEVELS), where=widths > 0), np.diff([*starts, len(inside)])) * filled
    first, second = clipped / clipped.sum(), level / max(level.sum(), 1.0)
    seen = first > 0
    return float(np.sum(first[seen] * np.log(first[seen] / np.maximum(second[seen], 1e-12))))
