"""Conversions that are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.card import ModelCard, card
from engines.convert import converted
from engines.errors import ModelFileError

pytestmark = pytest.mark.unit


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    weights = numpy_helper.from_array(np.ones((1, 3, 3, 3), np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, depth, 8, 8]) for name, depth in (("x", 3), ("y", 1))]
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    graph = helper.make_graph(nodes, "small", values[:1], values[1:], [weights])
    path = tmp_path / "centerface.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    return path


CARD: ModelCard = card("centerface")


def test_a_conversion_is_made_once(fetched: Path) -> None:
    made, _ = converted(CARD, fetched)
    before = made.stat().st_mtime_ns
    assert converted(CARD, fetched) == (made, "onnx")
    assert made.stat().st_mtime_ns == before
    onnx.checker.check_model(onnx.load(str(made)))


@pytest.mark.parametrize("damage", ["replaced", "cut off", "without its hash", "with another hash"])
def test_a_conversion_that_is_not_what_was_made_is_made_anew(fetched: Path, damage: str) -> None:
    made, _ = converted(CARD, fetched)
    content, digest = made.read_bytes(), made.with_name(f"{made.name}.sha256")
    if damage == "replaced":
        made.write_bytes(b"another model")
    elif damage == "cut off":
        made.write_bytes(content[:-5])
    elif damage == "without its hash":
        digest.unlink()
        made.write_bytes(b"another model")
    else:
        digest.write_bytes(b"\xff" * 64)
    assert converted(CARD, fetched)[0].read_bytes() == content
    assert len(digest.read_text()) == 64


def test_a_file_of_another_format_than_its_card_says_is_told(tmp_path: Path) -> None:
    other = CARD.model_copy(update={"converter": None, "format": "onnx"})
    (tmp_path / other.filename).write_bytes(b"\x18\x00\x00\x00TFL3 and more")
    with pytest.raises(ModelFileError, match=r"centerface \(`format: onnx` by its card\): .* looks like tflite"):
        converted(other, tmp_path / other.filename)
