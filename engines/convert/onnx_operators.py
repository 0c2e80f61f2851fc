"""Which nodes of an ONNX file a runtime has no operator for: most runtimes say no more than the operators."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engines.errors import UnsupportedOperatorError

if TYPE_CHECKING:
    import onnx

_TOLD = (
    re.compile(r"No conversion rule found for operations: ([^\n]+)"),  # OpenVINO
    re.compile(r"No translator found for ([\w.:]+) node"),  # OpenVINO, of a TFLite file
    re.compile(r"([\w.:]+)\(-?\d+\) is not a registered function/op"),  # ONNX Runtime, of a model with operators of its own
    re.compile(r"Could not find an implementation for ([\w.:]+)\(-?\d+\)"),  # ONNX Runtime
    re.compile(r"No Op registered for ([\w.:]+) with"),  # onnx
)
_NAMED = 3
"""Nodes that are named; of more, the number."""


def unsupported(error: BaseException, model: str, runtime: str, path: Path) -> UnsupportedOperatorError | None:
    """What to raise where a runtime's error says that it lacks an operator: with the nodes of the file that ask for it; else None.

    `model`: the card that the file at `path` belongs to. A file of another format than ONNX is not looked into.
    """
    text = str(error)
    told = ", ".join(found[1] for pattern in _TOLD if (found := pattern.search(text)))
    lacking = [re.sub(r"-\d+$", "", one.rstrip(". ")).replace(":", ".").removeprefix("ai.onnx.") for one in told.split(", ") if one]
    if not lacking:
        return None
    places = [f"{_place(node)} ({_operator(node)})" for node in _nodes(path) if _operator(node) in lacking]
    more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
    where = f", which it needs at {'; '.join(places[:_NAMED])}{more}" if places else ""
    return UnsupportedOperatorError(
        f"{model}: {runtime} has no operator {', '.join(lacking)} for {path.name}{where}."
        " Choose another backend (`--backend`, or `engines.backend` in the settings), or export the model without it."
    )


def _place(node: onnx.NodeProto) -> str:
    return f"node {node.name!r}" if node.name else f"the node that makes {', '.join(map(repr, node.output))}"


def _operator(node: onnx.NodeProto) -> str:
    domain = "" if node.domain == "ai.onnx" else node.domain
    return f"{domain}.{node.op_type}" if domain else node.op_type


def _nodes(path: Path) -> Iterator[onnx.NodeProto]:
    """All of the file, those within other nodes among them; none where it is no ONNX file, or where onnx is not installed."""
    if path.suffix != ".onnx" or find_spec("onnx") is None:
        return
    import onnx

    yield from _within(onnx.load(str(path), load_external_data=False).graph)


def _within(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _within(inner)
