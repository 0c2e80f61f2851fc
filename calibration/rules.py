"""What the runtimes ask of a QDQ model, checked on the file itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from engines.calibrated import Flavour

AXES = {"Conv": 0, "ConvTranspose": 1}
"""The axis of a weight's channels, by operator. Gemm and MatMul: the axis of the outputs."""


def broken_rules(model: Any, flavour: Flavour) -> list[str]:
    """Sentences, each naming a node; empty where the model keeps to all rules.

    For both: QuantizeLinear and DequantizeLinear of the default domain, opset 13 to 21 (per-channel axis needs 13), scales that are
    constant, positive and finite; weights signed, symmetric, and per channel of the right axis.

    For s8s8, TensorRT's "Working with Quantized Types" (explicit quantisation): only signed 8 bits, all zero points 0, and no bias
    dequantised from 32 bits.
    """
    from onnx import numpy_helper

    constants = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    broken = []
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if not 13 <= opset <= 21:
        broken.append(f"opset {opset} is outside 13 to 21")
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            broken += [f"{node.name}: {fault}" for fault in _of_pair(node, constants, flavour)]
        elif node.op_type in (*AXES, "Gemm", "MatMul"):
            broken += [f"{node.name}: {fault}" for fault in _of_weights(node, constants, makers)]
    return broken


def _of_pair(node: Any, constants: dict[str, Any], flavour: Flavour) -> list[str]:
    if node.domain not in ("", "ai.onnx"):
        return [f"{node.op_type} of domain {node.domain}"]
    scale = constants.get(node.input[1])
    if scale is None or not np.isfinite(scale).all() or scale.min(initial=1.0) <= 0:
        return ["its scale is not a positive constant"]
    zero = constants.get(node.input[2]) if len(node.input) > 2 else np.zeros(1, np.uint8)
    if zero is None:
        return ["its zero point is not constant"]
    if flavour == "u8s8":
        return []
    if zero.dtype == np.int32:
        return ["32-bit integers are dequantised (a quantised bias)"]
    faults = [] if zero.dtype == np.int8 else [f"its integers are {zero.dtype}, not int8"]
    return faults + ([f"its zero point is {zero.max()}, not 0"] if zero.any() else [])


def _of_weights(node: Any, constants: dict[str, Any], makers: dict[str, Any]) -> list[str]:
    """Of a quantised node: weights in signed 8 bits, one scale per output channel."""
    pair = makers.get(node.input[1])
    if pair is None or pair.op_type != "DequantizeLinear" or pair.input[0] not in constants:
        return []
    weights, scale = constants[pair.input[0]], constants.get(pair.input[1])
    zero = constants.get(pair.input[2]) if len(pair.input) > 2 else np.zeros(1, np.int8)
    if weights.dtype != np.int8 or zero is None or zero.any():
        return ["its weights are not signed and symmetric"]
    if scale is None or scale.size == 1:
        return []
    axis = next((attribute.i for attribute in pair.attribute if attribute.name == "axis"), 1) % weights.ndim
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    wanted = AXES.get(node.op_type, 0 if transposed else weights.ndim - 1)
    if axis != wanted or scale.size != weights.shape[axis]:
        return [f"{scale.size} scales along axis {axis} of weights {weights.shape}; they belong along axis {wanted}"]
    return []
