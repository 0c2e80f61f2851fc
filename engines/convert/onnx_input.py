"""Puts pre-processing into an ONNX graph, so that the host moves bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.backends.base import FLOAT_INPUT, IMAGE, Build
from engines.convert.onnx_file import checked
from engines.errors import ModelFileError

NORMALISED = "almena_normalised"
"""The tensor that the model itself begins with."""


_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def with_picture_input(build: Build) -> bytes:
    """The model with one input `image`, (batch, height, width, channels) uint8 blue-green-red or grey, in place of its own.

    The batch is free where the order has a `least`. Raises ModelFileError.
    """
    model = checked(build.model, build.name)
    if len(model.graph.input) != 1:
        raise ModelFileError(f"{build.name}: {build.model.name} has {len(model.graph.input)} inputs, not one picture")
    own, kind = model.graph.input[0].name, model.graph.input[0].type.tensor_type.elem_type
    if kind not in _FLOATS:
        name = TensorProto.DataType.Name(kind).lower()
        raise ModelFileError(f"{build.name}: input {own!r} of {build.model.name} is {name}; {FLOAT_INPUT}")
    own_shape = model.graph.input[0].type.tensor_type
    if own_shape.HasField("shape"):
        build.require_channels(own, [size.dim_value if size.HasField("dim_value") else None for size in own_shape.shape.dim])
    batch = build.batch if build.least is None else "N"
    nodes, weights = _steps(build, NORMALISED)
    body = list(model.graph.node)
    names = [value.name for value in model.graph.output]
    renamed = dict(zip(names, build.output_names([[name] for name in names]), strict=True)) | {own: NORMALISED}
    _rename(body, renamed)
    del model.graph.node[:], model.graph.input[:], model.graph.value_info[:]
    model.graph.node.extend([*nodes, *body])
    model.graph.initializer.extend(weights)
    model.graph.input.append(
        helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, [batch, build.height, build.width, build.input.channels])
    )
    for value in model.graph.output:
        value.name = renamed[value.name]
        value.type.tensor_type.ClearField("shape")
    fixed: bytes = onnx.shape_inference.infer_shapes(model).SerializeToString()
    return fixed


def _rename(nodes: Iterable[onnx.NodeProto], renamed: Mapping[str, str]) -> None:
    """Also within the bodies of If and Loop, which see the names around them; names are given once in a model."""
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _rename(graph.node, renamed)
                for value in graph.output:
                    value.name = renamed.get(value.name, value.name)


def _steps(build: Build, result: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """(x - mean) / scale, colour order and layout, from `image` to the tensor `result`."""
    planar = build.input.layout == "NCHW"
    channels = build.input.channels
    shape = (1, channels, 1, 1) if planar else (1, 1, 1, channels)
    weights: list[onnx.TensorProto] = []
    chain: list[tuple[str, list[str], dict[str, Any]]] = [("Cast", [], {"to": TensorProto.FLOAT})]

    def weight(name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        weights.append(numpy_helper.from_array(values, f"almena_{name}"))
        return f"almena_{name}"

    if planar:
        chain.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    if build.input.colour == "RGB":
        chain.append(("Gather", [weight("order", np.array([2, 1, 0], np.int64))], {"axis": 1 if planar else 3}))
    chain.append(("Sub", [weight("mean", np.array(build.input.mean, np.float32).reshape(shape))], {}))
    chain.append(("Div", [weight("scale", np.array(build.input.scale, np.float32).reshape(shape))], {}))
    nodes, previous = [], IMAGE
    for index, (kind, more, attributes) in enumerate(chain):
        output = result if index == len(chain) - 1 else f"almena_{index}"
        nodes.append(helper.make_node(kind, [previous, *more], [output], **attributes))
        previous = output
    return nodes, weights
