"""Weights that tf2onnx need not see: it and TensorFlow's freezing keep some 36 copies of each at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from engines.room import available_memory

LARGE = 16 << 20
"""Bytes from which a weight goes around tf2onnx: dense layers, but no usual convolution, into which normalisations are to be folded."""
COPIES = 36
BASE = 900e6
"""What the conversion takes besides copies of weights, measured on EfficientNet-B0 (1.85 GB in all) and VGG-16 (5.0 GB)."""


class WrongModelError(Exception):
    """The model file is at fault, or too large; the message says how."""


@dataclass(frozen=True, slots=True)
class Large:
    """A signature's graph whose large weights are inputs, beside its own `inputs`. `weights`: what reads each, by its input's name."""

    graph: Any
    inputs: list[str]
    weights: Mapping[str, Callable[[], Any]]


def large_weights(concrete: Any) -> Large | None:
    """The signature without its large weights; None where it has none, or uses variables in a way that this does not know.

    Raises WrongModelError where the conversion of the rest will not fit into memory.
    """
    import tensorflow as tf
    from tensorflow.core.framework import graph_pb2

    handles = {inner.name.partition(":")[0]: outer for outer, inner in concrete.graph.captures if outer.dtype == tf.resource}
    graph = _inlined(concrete)
    owners = None if graph is None else _owners(graph, handles)
    if graph is None or owners is None:
        return None
    new, weights, small = graph_pb2.GraphDef(versions=graph.versions, library=graph.library), {}, 0
    for node in graph.node:
        added = new.node.add()
        if node.op != "ReadVariableOp":
            added.CopyFrom(node)
            continue
        kind = node.attr["dtype"].type
        read = partial(_read, handles[owners[node.name]], kind)
        values = read()
        added.name, added.attr["dtype"].type = node.name, kind
        if values.nbytes >= LARGE:
            added.op = "Placeholder"
            added.attr["shape"].shape.CopyFrom(tf.TensorShape(values.shape).as_proto())
            weights[f"{node.name}:0"] = read
        else:
            added.op = "Const"
            added.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(values))
            small += values.nbytes
    _require_memory(small)
    given = [tensor.name for tensor in concrete.inputs if tensor.dtype != tf.resource]
    return Large(new, given, weights) if weights else None


def _require_memory(small: int) -> None:
    wanted, free = BASE + COPIES * small, available_memory()
    if wanted > free:
        raise WrongModelError(
            f"its conversion takes about {wanted / 1e6:.0f} MB of memory more, and {free / 1e6:.0f} MB are free. Stop what else runs,"
            " choose backend openvino, which reads the file itself, or convert it on a larger machine"
        )


def _inlined(concrete: Any) -> Any:
    """The signature's graph with the functions that it calls in it, as TensorFlow's own freezing begins."""
    try:
        from tensorflow.python.framework.convert_to_constants import _run_inline_graph_optimization as inline
    except ImportError:
        return None
    return inline(concrete, lower_control_flow=False, aggressive_inlining=True)


def _owners(graph: Any, handles: dict[str, Any]) -> dict[str, str] | None:
    """By the names of the nodes that read a variable: the input that holds it; None where one is used otherwise than to be read."""
    holders = {name: name for name in handles}
    changed = True
    while changed:
        passed = {node.name: holders[_source(node)] for node in graph.node if node.op == "Identity" and _source(node) in holders}
        changed = not passed.keys() <= holders.keys()
        holders |= passed
    uses = [node for node in graph.node if node.op != "Identity" and any(name.partition(":")[0] in holders for name in node.input)]
    if any(node.op != "ReadVariableOp" for node in uses):
        return None
    return {node.name: holders[_source(node)] for node in uses}


def _source(node: Any) -> str:
    return str(node.input[0]).partition(":")[0] if node.input else ""


def _read(handle: Any, kind: int) -> Any:
    import tensorflow as tf

    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=kind).numpy()
