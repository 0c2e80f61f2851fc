"""ONNX files, read with what is wrong with them said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import external_data_helper

from engines.convert.onnx_operators import unsupported
from engines.errors import ModelFileError, said

_FRACTIONS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)


def read(path: Path, model: str = "") -> onnx.ModelProto:
    """The model in an ONNX file; `model` is the card that it belongs to. Raises ModelFileError, also where weights lie in other files."""
    shown = _shown(path, model)
    try:
        found = onnx.load(str(path), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise ModelFileError(f"{shown} is not a valid ONNX file, or cut off: {said(error)}; export or fetch it again") from error
    if not found.graph.node:
        raise ModelFileError(f"{shown} is not a valid ONNX file: it holds no nodes; export or fetch it again")
    for weight in found.graph.initializer:
        if external_data_helper.uses_external_data(weight):
            place = external_data_helper.ExternalDataInfo(weight).location
            raise ModelFileError(
                f"{shown}: the weight {weight.name!r} lies outside of it, in {place!r}. Make it one file where both are:"
                f" python -c \"import onnx; onnx.save(onnx.load('{path.name}'), 'whole.onnx')\""
            )
    return found


def checked(path: Path, model: str = "") -> onnx.ModelProto:
    """The same, and onnx finds nothing wrong with its graph: names, order of nodes, attributes. Raises ModelFileError."""
    found = read(path, model)
    try:
        onnx.checker.check_model(found)
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        lacking = unsupported(error, model or path.stem, f"onnx {onnx.__version__}", path)
        raise lacking or ModelFileError(f"{_shown(path, model)} is not a valid ONNX model: {said(error)}; export it again") from error
    for weight in found.graph.initializer:
        if weight.data_type in _FRACTIONS and np.isnan(onnx.numpy_helper.to_array(weight)).any():
            raise ModelFileError(
                f"{_shown(path, model)}: the weight {weight.name!r} holds NaN; train or export the model again, or fetch it anew"
            )
    return found


def _shown(path: Path, model: str) -> str:
    return f"{model}: {path.name}" if model else path.name
