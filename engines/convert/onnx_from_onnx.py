"""ONNX clean-up: a model that other people exported, made fit for current runtimes."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import version_converter

from engines.convert.onnx_file import checked

OPSET = 17


class OnnxFromOnnx:
    """Drops initialisers from the graph's inputs, frees batch, height and width of the one input left, lifts the opset to 17."""

    def convert(self, source: Path, target: Path) -> None:
        """Write the cleaned `source` to `target`. Raises ModelFileError."""
        model = checked(source)
        _drop_initialiser_inputs(model)
        if max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) < OPSET:
            model = version_converter.convert_version(model, OPSET)
        _free_shapes(model)
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model)
        target.write_bytes(model.SerializeToString())


def _drop_initialiser_inputs(model: onnx.ModelProto) -> None:
    names = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def _free_shapes(model: onnx.ModelProto) -> None:
    """Batch and the two last dimensions become symbols; those of the outputs and inner values are inferred anew."""
    del model.graph.value_info[:]
    for value in model.graph.input:
        for index, symbol in ((0, "N"), (2, "H"), (3, "W")):
            value.type.tensor_type.shape.dim[index].dim_param = symbol
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
