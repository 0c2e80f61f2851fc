"""dlib's face recognition ResNet (public: examples/dnn_face_recognition_ex.cpp) to ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.convert.dlib_file import Affine, Convolution, FullyConnected, Layer, Pool, read_layers
from engines.errors import ModelFileError

OPSET = 17
L = TypeVar("L", Convolution, Affine, Pool, FullyConnected)


class OnnxFromDlib:
    """Residual networks of the form: convolution, max pool, blocks of two convolutions, global average, fully connected.

    Affine layers are folded into the convolutions before them. Input `image` (N, 3, size, size) float32 RGB, already normalised;
    output `embedding` (N, D) float32.
    """

    def convert(self, source: Path, target: Path, size: int = 150) -> None:
        """Write `source` as ONNX to `target`. Raises ModelFileError."""
        graph = _Graph(source.name, size)
        model = graph.build(read_layers(source))
        onnx.checker.check_model(model)
        target.write_bytes(model.SerializeToString())


class _Graph:
    """Emits nodes while it walks the layers; knows (channels, height, width) of every tensor."""

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, int, int]] = {"image": (3, size, size)}

    def build(self, layers: list[Layer]) -> onnx.ModelProto:
        layers = list(layers)
        try:
            x = self.relu(self.convolution("image", layers))
            x = self.pool(x, self.expect(layers, Pool))
            while isinstance(layers[0], Convolution):
                x = self.block(x, layers)
            x = self.node("GlobalAveragePool", [x], (self.shapes[x][0], 1, 1)) if self.expect(layers, Pool) else x
            self.fully_connected(x, self.expect(layers, FullyConnected))
        except IndexError as error:
            raise ModelFileError(f"{self.name}: the network ends early (truncated?); delete the file and fetch it again") from error
        channels, height, width = self.shapes["image"]
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", channels, height, width])
        embedding = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["N", self.shapes["embedding"][0]])
        graph = helper.make_graph(self.nodes, "dlib-resnet", [image], [embedding], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8, producer_name="almena")

    def expect(self, layers: list[Layer], kind: type[L]) -> L:
        layer = layers[0]
        if not isinstance(layer, kind):
            raise ModelFileError(f"{self.name}: a {type(layer).__name__} layer where {kind.__name__} was expected; another network?")
        del layers[0]
        return layer

    def block(self, x: str, layers: list[Layer]) -> str:
        """relu(convolutions(x) + shortcut), where a 2x2 average pool on the shortcut marks a block that halves the picture."""
        y = self.convolution(self.relu(self.convolution(x, layers)), layers)
        shortcut = x
        if isinstance(layers[0], Pool) and not isinstance(layers[1], FullyConnected):
            shortcut = self.pool(x, self.expect(layers, Pool))
        shape = tuple(np.maximum(self.shapes[y], self.shapes[shortcut]).tolist())
        total = self.node("Add", [self.pad(y, shape), self.pad(shortcut, shape)], shape)
        return self.relu(total)

    def convolution(self, x: str, layers: list[Layer]) -> str:
        layer, affine = self.expect(layers, Convolution), self.expect(layers, Affine)
        channels, height, width = self.shapes[x]
        filters, inputs, rows, columns = layer.weights.shape
        if inputs != channels or affine.gamma.shape != (filters,):
            raise ModelFileError(f"{self.name}: layers that do not fit: {channels} channels into {layer.weights.shape}")
        weights = self.weight(layer.weights * affine.gamma[:, None, None, None])
        bias = self.weight(layer.bias * affine.gamma + affine.beta)
        (sy, sx), (py, px) = layer.stride, layer.padding
        shape = (filters, (height + 2 * py - rows) // sy + 1, (width + 2 * px - columns) // sx + 1)
        return self.node("Conv", [x, weights, bias], shape, strides=[sy, sx], pads=[py, px, py, px], kernel_shape=[rows, columns])

    def pool(self, x: str, layer: Pool) -> str:
        channels, height, width = self.shapes[x]
        (rows, columns), (sy, sx), (py, px) = layer.window, layer.stride, layer.padding
        shape = (channels, (height + 2 * py - rows) // sy + 1, (width + 2 * px - columns) // sx + 1)
        kind = "MaxPool" if layer.kind == "max" else "AveragePool"
        return self.node(kind, [x], shape, kernel_shape=[rows, columns], strides=[sy, sx], pads=[py, px, py, px])

    def pad(self, x: str, shape: tuple[int, ...]) -> str:
        """Zeros behind the channels and at the bottom and right, as dlib's add_prev does."""
        missing = [want - have for want, have in zip(shape, self.shapes[x], strict=True)]
        if not any(missing):
            return x
        pads = self.weight(np.array([0, 0, 0, 0, 0, *missing], np.int64))
        return self.node("Pad", [x, pads], shape)

    def relu(self, x: str) -> str:
        return self.node("Relu", [x], self.shapes[x])

    def fully_connected(self, x: str, layer: FullyConnected) -> None:
        if layer.weights.shape[0] != self.shapes[x][0]:
            raise ModelFileError(f"{self.name}: {self.shapes[x][0]} channels into a layer of {layer.weights.shape[0]} inputs")
        flat = self.node("Flatten", [x], self.shapes[x])
        self.node("MatMul", [flat, self.weight(layer.weights)], (layer.weights.shape[1], 1, 1), output="embedding")

    def node(self, kind: str, inputs: list[str], shape: tuple[int, ...], output: str = "", **attributes: Any) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        channels, height, width = shape
        self.shapes[output] = (channels, height, width)
        return output

    def weight(self, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name
