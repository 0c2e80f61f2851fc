"""Channels of like size, without changing what a model computes, so that 8 bits serve each of them.

A range that one channel needs leaves few steps to the others: of CenterFace's first convolution one channel reaches 18 and most stay
below 4. What commutes with a positive factor (`HOMOGENEOUS`) lets a channel be divided by a number where it is made and its weights be
multiplied by it where it is read (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019),
here by what the channels were seen to reach. Weights have a scale for each channel that they make, so only what they read counts: a
depthwise convolution has one such channel, which costs nothing; of others, half of the difference is moved into the weights (Xiao et al.,
"SmoothQuant", ICML 2023).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

HOMOGENEOUS = ("Relu", "Add", "MaxPool", "AveragePool", "GlobalAveragePool")
MOST = 8.0
"""The largest factor between two channels: those that the samples hardly use must not be clipped where they are used."""

F64 = NDArray[np.float64]


@dataclass(slots=True)
class _Group:
    """Tensors that must keep their channels' scales in common, the convolutions that make them, and those that read them."""

    tensors: set[str] = field(default_factory=set)
    makers: list[Any] = field(default_factory=list)
    readers: list[Any] = field(default_factory=list)
    is_fixed: bool = False


def equalise(model: Any, peaks: Mapping[str, F64]) -> None:
    """Rescale the convolutions of an ONNX model, channels first, in place.

    `peaks`: of each tensor of four dimensions, the largest absolute value by channel.
    """
    from onnx import numpy_helper

    graph = model.graph
    constants = {weight.name: weight for weight in graph.initializer}
    weights = {name: numpy_helper.to_array(constants[name]) for name in _weights(graph, constants)}
    changed: dict[str, F64] = {}
    for group in _groups(graph, constants, weights):
        seen = [peaks[name] for name in group.tensors if name in peaks]
        if group.is_fixed or not group.makers or not group.readers or {len(one) for one in seen} != {_made(group.makers[0], weights)}:
            continue
        factors = _factors(seen, [_read_by(node, changed.get(node.input[1], weights[node.input[1]])) for node in group.readers])
        for node in group.makers:
            for name in node.input[1:]:
                values = changed.get(name, weights[name])
                changed[name] = values / _along(factors, values.ndim, 1 if _is_transposed(node) and values.ndim > 1 else 0)
        for node in group.readers:
            values = changed.get(node.input[1], weights[node.input[1]])
            changed[node.input[1]] = values * _along(factors, values.ndim, 0 if _is_transposed(node) or _is_depthwise(node, values) else 1)
    for name, values in changed.items():
        constants[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))


def _weights(graph: Any, constants: Mapping[str, Any]) -> list[str]:
    """Weights and biases of convolutions that nothing else reads."""
    readers = Counter(name for node in graph.node for name in node.input)
    inputs = (name for node in graph.node if _is_convolution(node) for name in node.input[1:])
    return [name for name in inputs if name in constants and readers[name] == 1]


def _groups(graph: Any, constants: Mapping[str, Any], weights: Mapping[str, Any]) -> Iterable[_Group]:
    """What is joined by homogeneous operators. Fixed are those that the model takes or gives, and that any other operator touches."""
    of: dict[str, _Group] = {}

    def group(name: str) -> _Group:
        if name not in of:
            of[name] = _Group({name})
        return of[name]

    for node in graph.node:
        touched = [name for name in (*node.input, *node.output) if name and name not in constants]
        if _is_convolution(node) and all(name in weights for name in node.input[1:]) and len(touched) == 2:
            values = weights[node.input[1]]
            group(node.input[0]).readers.append(node)
            group(node.output[0]).makers.append(node)
            if _groups_of(node) > 1 and not _is_depthwise(node, values):
                group(node.input[0]).is_fixed = group(node.output[0]).is_fixed = True
        elif node.op_type in HOMOGENEOUS and not any(name in constants for name in node.input):
            for name in touched[1:]:
                _join(of, group(touched[0]), group(name))
        else:
            for name in touched:
                group(name).is_fixed = True
    for value in (*graph.input, *graph.output):
        group(value.name).is_fixed = True
    return {id(one): one for one in of.values()}.values()


def _join(of: dict[str, _Group], one: _Group, other: _Group) -> None:
    if one is other:
        return
    one.tensors |= other.tensors
    one.makers += other.makers
    one.readers += other.readers
    one.is_fixed |= other.is_fixed
    of.update(dict.fromkeys(other.tensors, one))


def _factors(peaks: list[F64], read: list[F64 | None]) -> F64:
    """By channel, 1 to MOST. `read`: by reader the share of its largest weight, None for those to which all factors are the same."""
    reached = np.maximum(np.max([one / max(one.max(), 1e-12) for one in peaks], 0), 1e-6)
    weighed = [one for one in read if one is not None]
    factors = np.sqrt(reached / np.maximum(np.max(weighed, 0), 1e-6)) if weighed else reached
    return np.asarray(np.maximum(factors / factors.max() * MOST, 1.0), np.float64)


def _read_by(node: Any, values: F64) -> F64 | None:
    """By channel that is read, its largest weight as a share of the largest of the same made channel."""
    if _is_depthwise(node, values):
        return None
    largest = np.abs(values).max(tuple(range(2, values.ndim)))
    made_first = largest.T if _is_transposed(node) else largest
    return np.asarray((made_first / np.maximum(made_first.max(1, keepdims=True), 1e-12)).max(0), np.float64)


def _made(node: Any, weights: Mapping[str, Any]) -> int:
    return int(weights[node.input[1]].shape[1 if _is_transposed(node) else 0])


def _along(factors: F64, dimensions: int, axis: int) -> F64:
    return factors.reshape([-1 if place == axis else 1 for place in range(dimensions)])


def _is_convolution(node: Any) -> bool:
    return node.op_type in ("Conv", "ConvTranspose")


def _is_transposed(node: Any) -> bool:
    return bool(node.op_type == "ConvTranspose")


def _groups_of(node: Any) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "group"), 1)


def _is_depthwise(node: Any, values: Any) -> bool:
    return not _is_transposed(node) and _groups_of(node) == values.shape[0] and _groups_of(node) > 1 and values.shape[1] == 1
