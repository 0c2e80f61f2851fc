"""Several pictures as groups of channels of one: what makes small 8-bit networks quicker on processors.

Their first layers have few channels and many positions. A processor's vector holds 64 numbers of 8 bits, and pooling costs nearly as much
for 32 channels as for 128, for every position. With four pictures side by side in the channels a position is dealt with once instead of
four times. Convolutions become grouped ones with the same weights for each group, so every number stays what it was.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, load_model, numpy_helper
from onnx.shape_inference import infer_shapes

VECTOR = 64
"""Numbers of 8 bits that a vector of AVX-512 holds; with as many channels there is nothing to gain."""
MOST_WEIGHTS = 1 << 20
"""Bytes of a convolution's repeated weights: more would no longer lie in a core's own cache."""


def stacked(path: Path, pictures: int) -> bytes | None:
    """The QDQ model in `path` with `pictures` pictures of its batch side by side, from its first convolution to where the chain of
    convolutions, rectifiers and poolings ends; None where it does not begin with such a chain of few channels.

    The batch must be a multiple of `pictures`.
    """
    model = load_model(str(path))
    stack = _Stack(model, pictures)
    return stack.built().SerializeToString() if stack.pays else None


class _Stack:
    """One model, and the chain of its nodes that treat every channel alike, from what feeds the first convolution on."""

    def __init__(self, model: ModelProto, pictures: int) -> None:
        self._model = model
        self._pictures = pictures
        self._constants = {constant.name: constant for constant in model.graph.initializer}
        self._weights = {node.output[0]: node for node in model.graph.node if node.input and node.input[0] in self._constants}
        self._chain = self._alike()
        self._convolutions = [node for node in self._chain if node.op_type == "Conv"]

    @property
    def pays(self) -> bool:
        """Whether vectors would be half empty without it, and the repeated weights stay near the core."""
        shapes = [self._values(node).shape for node in self._convolutions]
        pools = any(node.op_type == "MaxPool" for node in self._chain)
        light = bool(shapes) and shapes[0][0] < VECTOR and all(self._pictures * prod(shape) <= MOST_WEIGHTS for shape in shapes)
        return pools and light and all(self._sides())

    def built(self) -> ModelProto:
        """Repeat the weights along the chain, put the pictures together before it and apart behind it."""
        height, width = self._sides()
        inputs = self._values(self._convolutions[0]).shape[1]
        channels = self._values(self._convolutions[-1]).shape[0]
        self._spread(self._convolutions[0])
        for node in self._convolutions[1:]:
            self._repeat(node)
        nodes, first, last = list(self._model.graph.node), self._chain[0], self._chain[-1]
        together = self._steps(first.input[0], "almena_together", [("Reshape", (-1, self._pictures * inputs, 0, 0))])
        first.input[0] = "almena_together"
        by_picture = [
            ("Transpose", (0, 2, 3, 1)),  # the order in which a processor holds them
            ("Reshape", (0, 0, 0, self._pictures, channels)),
            ("Transpose", (0, 3, 1, 2, 4)),
            ("Reshape", (-1, height, width, channels)),
            ("Transpose", (0, 3, 1, 2)),
        ]
        apart = self._steps("almena_apart", last.output[0], by_picture)
        last.output[0] = "almena_apart"
        start, end = nodes.index(first), nodes.index(last) + 1
        del self._model.graph.node[:]
        self._model.graph.node.extend([*nodes[:start], *together, *nodes[start:end], *apart, *nodes[end:]])
        return self._model

    def _sides(self) -> tuple[int, int]:
        """Height and width behind the chain; zeros where the model does not tell."""
        shapes = {
            one.name: [side.dim_value for side in one.type.tensor_type.shape.dim] for one in infer_shapes(self._model).graph.value_info
        }
        found = shapes.get(self._chain[-1].output[0], [])
        return (found[2], found[3]) if len(found) == 4 else (0, 0)

    def _alike(self) -> list[NodeProto]:
        """An output of the model itself ends it: what others read keeps its shape."""
        used = Counter(name for node in self._model.graph.node for name in node.input)
        used.update(output.name for output in self._model.graph.output)
        next_to = {name: node for node in self._model.graph.node for name in node.input if used[name] == 1}
        node = next((node for node in self._model.graph.node if node.op_type == "QuantizeLinear"), None)
        chain = []
        while node is not None and self._is_alike(node):
            chain.append(node)
            node = next_to.get(node.output[0])
        return chain

    def _is_alike(self, node: NodeProto) -> bool:
        if node.op_type == "Conv":
            group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            return group == 1 and all(name in self._weights for name in node.input[1:])
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return all(name in self._constants and not self._constants[name].dims for name in node.input[1:])
        return node.op_type in ("Relu", "MaxPool") and len(node.output) == 1

    def _values(self, convolution: NodeProto) -> NDArray[np.int8]:
        """The weights, (outputs, inputs, height, width)."""
        values: NDArray[np.int8] = numpy_helper.to_array(self._constants[self._weights[convolution.input[1]].input[0]])
        return values

    def _spread(self, convolution: NodeProto) -> None:
        """So few inputs are quicker dealt with all at once, with weights of zero for the other pictures' inputs."""
        weights = self._values(convolution)
        outputs, inputs, *kernel = weights.shape
        self._repeat(convolution)
        all_at_once = np.zeros((self._pictures, outputs, self._pictures, inputs, *kernel), weights.dtype)
        for picture in range(self._pictures):
            all_at_once[picture, :, picture] = weights
        self._set(self._weights[convolution.input[1]].input[0], all_at_once.reshape(self._pictures * outputs, -1, *kernel))
        convolution.attribute.remove(next(attribute for attribute in convolution.attribute if attribute.name == "group"))

    def _repeat(self, convolution: NodeProto) -> None:
        """A group of channels for every picture, each with the same weights, scales and biases."""
        for name in convolution.input[1:]:
            for constant in self._weights[name].input:
                values = numpy_helper.to_array(self._constants[constant])
                if values.ndim:
                    self._set(constant, np.concatenate([values] * self._pictures))
        kept = [attribute for attribute in convolution.attribute if attribute.name != "group"]
        del convolution.attribute[:]
        convolution.attribute.extend([*kept, helper.make_attribute("group", self._pictures)])

    def _set(self, name: str, values: NDArray[np.generic]) -> None:
        self._constants[name].CopyFrom(numpy_helper.from_array(values, name))

    def _steps(self, source: str, target: str, steps: list[tuple[str, tuple[int, ...]]]) -> list[NodeProto]:
        """Nodes that take `source` to `target` by transpositions and reshapes."""
        names = [source, *(f"{source}_{number}" for number in range(1, len(steps))), target]
        nodes = []
        for (kind, numbers), before, behind in zip(steps, names, names[1:], strict=False):
            if kind == "Reshape":
                shape = numpy_helper.from_array(np.array(numbers, np.int64), f"{behind}_shape")
                self._model.graph.initializer.append(shape)
                nodes.append(helper.make_node("Reshape", [before, shape.name], [behind]))
            else:
                nodes.append(helper.make_node("Transpose", [before], [behind], perm=numbers))
        return nodes
