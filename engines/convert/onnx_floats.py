"""An ONNX graph in 16-bit floats: for runtimes whose precision comes from the types in the file alone."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, version_converter

Half = Literal["fp16", "bf16"]

TYPES: dict[Half, int] = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
LARGEST = float(np.finfo(np.float16).max)
LEAST_SCALE = 2.0**-16
"""Of a quantised tensor: fp16 holds it, below its normal numbers, to 0.2 %, which is less than half a step of 8 bits."""
OPSETS: dict[Half, int] = {"fp16": 13, "bf16": 22}
"""The first opset whose convolutions take the type."""
QUANTISED_OPSET = 19
"""The first one whose QuantizeLinear and DequantizeLinear take 16-bit scales."""
KEPT = {"Resize": (1, 2), "Upsample": (1,)}
"""Inputs that are 32-bit floats whatever the graph computes in."""
QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


def in_halves(content: bytes, half: Half, start: str) -> bytes:
    """The model with everything behind the tensor `start` in 16-bit floats; its outputs stay 32-bit ones.

    Weights beyond the range of fp16 become its largest number. A quantised model, one of 8-bit integers, is left as it is where a scale
    is too small for fp16.
    """
    model = onnx.load_from_string(content)
    quantised = any(node.op_type in QUANTISERS for node in model.graph.node)
    if quantised and half == "fp16" and _least_scale(model.graph) < LEAST_SCALE:
        return content
    wanted = max(OPSETS[half], QUANTISED_OPSET if quantised else 0)
    if max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) < wanted:
        model = version_converter.convert_version(model, wanted)
    _cast(model.graph, half, start)
    del model.graph.value_info[:]
    cast: bytes = model.SerializeToString()
    return cast


def _least_scale(graph: onnx.GraphProto) -> float:
    scales = {node.input[1] for node in graph.node if node.op_type in QUANTISERS}
    return min((float(numpy_helper.to_array(weight).min()) for weight in graph.initializer if weight.name in scales), default=np.inf)


def _cast(graph: onnx.GraphProto, half: Half, start: str) -> None:
    first = next(index for index, node in enumerate(graph.node) if start in node.output) + 1
    before, body = list(graph.node)[:first], list(graph.node)[first:]
    kept = {name for node in before for name in node.input}
    kept |= {node.input[index] for node in body for index in KEPT.get(node.op_type, ()) if index < len(node.input)}
    for weight in graph.initializer:
        if weight.data_type == TensorProto.FLOAT and weight.name not in kept:
            weight.CopyFrom(_halved(weight, half))
    outputs = {value.name: f"{value.name}_half" for value in graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    halved = f"{start}_half"
    for node in body:
        node.input[:] = [halved if name == start else outputs.get(name, name) for name in node.input]
        node.output[:] = [outputs.get(name, name) for name in node.output]
        if not kept & set(node.output):
            _retype(node, half)
    casts = [helper.make_node("Cast", [inner], [name], to=TensorProto.FLOAT) for name, inner in outputs.items()]
    entry = helper.make_node("Cast", [start], [halved], to=TYPES[half])
    del graph.node[:]
    graph.node.extend([*before, entry, *body, *casts])


def _retype(node: onnx.NodeProto, half: Half) -> None:
    """What a node itself makes of 32-bit floats."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TYPES[half]
        elif node.op_type in ("Constant", "ConstantOfShape") and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(_halved(attribute.t, half))


def _halved(tensor: onnx.TensorProto, half: Half) -> onnx.TensorProto:
    values: NDArray[np.float32] = numpy_helper.to_array(tensor).astype(np.float32)
    if half == "fp16":
        return numpy_helper.from_array(values.clip(-LARGEST, LARGEST).astype(np.float16), tensor.name)
    bits = values.reshape(-1).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return helper.make_tensor(tensor.name, TensorProto.BFLOAT16, values.shape, rounded.tobytes(), raw=True)
