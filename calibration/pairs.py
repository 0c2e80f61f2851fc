"""Pairs of QuantizeLinear and DequantizeLinear in a graph: taken out, and put in alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

QUANTISE, DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
ACTIVATIONS = ("Relu", "Clip")
PASSING = ("Flatten", "MaxPool", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")


def free(graph: Any, original: Any, float_nodes: Collection[str]) -> None:
    """Let `float_nodes` of a quantised graph read the tensors that `original`, its FP32 twin, reads.

    Two kinds of pairs go in any case: those before activations, which runtimes fuse with what is before them; and those before the
    model's outputs, because a face's size in 256 steps is too coarse, and there is nothing to gain.
    """
    makers = {output: node for node in graph.node for output in node.output}
    weights = {weight.name: weight for weight in original.initializer}
    twins = {node.name: node for node in original.node}
    for node in graph.node:
        if node.name in float_nodes or node.op_type in ACTIVATIONS:
            graph.initializer.extend(_set_free(node, twins[node.name], makers, weights))
    for value in graph.output:
        second = makers.get(value.name)
        first = makers.get(second.input[0]) if second is not None and second.op_type == DEQUANTISE else None
        if first is not None and first.op_type == QUANTISE and first.input[0] in makers:
            _rename(graph, value.name, makers[first.input[0]], first, second)
    _drop_unread(graph)
    while passing := _passing_float(graph):
        for node in passing:
            graph.initializer.extend(_set_free(node, twins[node.name], makers, weights))
        _drop_unread(graph)


def _passing_float(graph: Any) -> list[Any]:
    """Nodes that only pass on what they read, from a pair, to none."""
    read = {name for node in graph.node if node.op_type == DEQUANTISE for name in node.output}
    quantised = {node.input[0] for node in graph.node if node.op_type == QUANTISE}
    return [node for node in graph.node if node.op_type in PASSING and node.input[0] in read and node.output[0] not in quantised]


def _set_free(node: Any, twin: Any, makers: dict[str, Any], weights: dict[str, Any]) -> Iterable[Any]:
    """Rewire the inputs of `node`; gives the float weights that it needs, under names of their own."""
    import onnx

    for index, tensor in enumerate(node.input):
        second = makers.get(tensor)
        if second is None or second.op_type != DEQUANTISE:
            continue
        first = makers.get(second.input[0])
        if first is not None:
            node.input[index] = first.input[0]
            continue
        copy = onnx.TensorProto()
        copy.CopyFrom(weights[twin.input[index]])
        copy.name = node.input[index] = f"{node.name}_float_{index}"
        yield copy


def _rename(graph: Any, name: str, maker: Any, first: Any, second: Any) -> None:
    """Let `maker` give the output `name` itself, without the pair."""
    inner = first.input[0]
    graph.node.remove(first)
    graph.node.remove(second)
    for node in graph.node:
        node.input[:] = [name if tensor == inner else tensor for tensor in node.input]
    maker.output[:] = [name if tensor == inner else tensor for tensor in maker.output]


def _drop_unread(graph: Any) -> None:
    """Pairs that nothing reads any more, and constants likewise."""
    while True:
        read = {tensor for node in graph.node for tensor in node.input} | {value.name for value in graph.output}
        idle = [node for node in graph.node if node.op_type in (QUANTISE, DEQUANTISE) and node.output[0] not in read]
        if not idle:
            break
        for node in idle:
            graph.node.remove(node)
    kept = [weight for weight in graph.initializer if weight.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def alone(original: Any, quantised: Any, name: str) -> Any:
    """The FP32 model with one node's inputs and weights going through the pairs that it has in `quantised`."""
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(original)
    graph = changed.graph
    makers = {output: node for node in quantised.graph.node for output in node.output}
    constants = {weight.name: weight for weight in quantised.graph.initializer}
    node = next(one for one in graph.node if one.name == name)
    twin = next(one for one in quantised.graph.node if one.name == name)
    pairs: list[Any] = []
    for index, tensor in enumerate(twin.input):
        second = makers.get(tensor)
        if second is not None and second.op_type == DEQUANTISE:
            pairs += _pair(makers.get(second.input[0]), second, node.input[index], f"almena_{index}")
            node.input[index] = pairs[-1].output[0]
    for constant in {constant for one in pairs for constant in one.input if constant in constants}:
        graph.initializer.append(constants[constant])
        graph.initializer[-1].name = f"almena_{constant}"
    for one in pairs:
        one.input[:] = [f"almena_{tensor}" if tensor in constants else tensor for tensor in one.input]
    nodes, place = list(graph.node), list(graph.node).index(node)
    del graph.node[:]
    graph.node.extend([*nodes[:place], *pairs, *nodes[place:]])
    return changed


def _pair(first: Any, second: Any, source: str, name: str) -> list[Any]:
    """Copies of a pair that read `source`, or of what dequantises a constant."""
    import onnx

    made = []
    for one in (first, second):
        if one is not None:
            made.append(onnx.NodeProto())
            made[-1].CopyFrom(one)
            made[-1].name = made[-1].output[0] = f"{name}_{one.op_type}"
    if first is not None:
        made[0].input[0], made[1].input[0] = source, made[0].output[0]
    return made
