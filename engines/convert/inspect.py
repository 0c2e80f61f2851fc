"""What a bare model file says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import numpy as np

from engines.base import TensorSpec
from engines.card import Format
from engines.convert.tensorflow import call
from engines.errors import MissingRuntimeError, ModelFileError, said

_SUFFIXES: dict[str, Format] = {".onnx": "onnx", ".tflite": "tflite", ".keras": "keras", ".xml": "openvino"}
_HDF5 = b"\x89HDF"


@dataclass(frozen=True, slots=True)
class Tensors:
    """A model's inputs and outputs; None marks a free dimension."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def format_of(path: Path) -> Format:
    """The format of a model file or folder, by its name and its first bytes. Raises ModelFileError where they disagree or say nothing."""
    if not path.exists():
        raise ModelFileError(f"there is no model file {path}")
    if path.is_dir():
        if not (path / "saved_model.pb").is_file():
            raise ModelFileError(f"{path}: the folder has no saved_model.pb, so it is no SavedModel; name the model file in it")
        return "savedmodel"
    if not path.is_file():
        raise ModelFileError(f"{path} is a device or a pipe; name a model file")
    named = _SUFFIXES.get(path.suffix.lower())
    with path.open("rb") as file:
        seen = _sniffed(file.read(64))
    if named is None:
        kind = f" It looks like {seen}: give it that suffix." if seen else ""
        raise ModelFileError(f"{path.name}: known suffixes are {', '.join(_SUFFIXES)}, and folders of SavedModels.{kind}")
    if (seen is None) != (named == "onnx") or (seen is not None and seen != named):
        looks = f"it looks like {seen}" if seen else "its first bytes are of something else"
        raise ModelFileError(f"{path.name} is no {named} file: {looks}; give it the right suffix, or export it again if it is damaged")
    if seen == "keras" and not is_zipfile(path):
        raise ModelFileError(f"{path.name} is a keras file that is damaged or cut off; save or fetch it again")
    return named


def _sniffed(head: bytes) -> str | None:
    """By the formats' magic numbers; ONNX has none."""
    if head[4:8] == b"TFL3":
        return "tflite"
    if head[:2] == b"PK" and b"metadata.json" in head:
        return "keras"
    if head.lstrip()[:5] in (b"<?xml", b"<net "):
        return "openvino"
    return "Keras 2's HDF5 (load it with Keras and save it as .keras)" if head[:4] == _HDF5 else None


def inspect(path: Path, kind: Format) -> Tensors:
    """Inputs and outputs of a model file. Raises ModelFileError, MissingRuntimeError."""
    if kind == "onnx":
        return _onnx(path)
    if kind == "keras":
        return _told(call("inspect_keras", ("tensorflow",), path))
    if kind == "savedmodel":
        return _savedmodel(path)
    if kind == "tflite" and find_spec("ai_edge_litert") is not None:
        return _tflite(path)
    if find_spec("openvino") is None:
        raise MissingRuntimeError(f"{path.name}: reading a {kind} model needs OpenVINO: pip install 'almena[openvino]'")
    return _openvino(path)


def _savedmodel(path: Path) -> Tensors:
    """By OpenVINO, which reads most of them in a second; else by TensorFlow, which knows all operators."""
    if find_spec("openvino") is not None:
        try:
            return _openvino(path)
        except ModelFileError:
            if find_spec("tensorflow") is None:
                raise
    return _told(call("inspect_savedmodel", ("tensorflow",), path))


def _onnx(path: Path) -> Tensors:
    try:
        import onnx

        from engines.convert.onnx_file import read
    except ModuleNotFoundError as error:
        raise MissingRuntimeError(f"{path.name}: reading an ONNX model needs onnx: pip install 'almena[convert]'") from error
    graph = read(path).graph

    def described(value: Any) -> TensorSpec:
        kind = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name
        shape = tuple(one.dim_value if one.dim_value > 0 else None for one in kind.shape.dim)
        return TensorSpec(value.name, dtype, shape)

    weights = {weight.name for weight in graph.initializer}
    return Tensors(tuple(described(one) for one in graph.input if one.name not in weights), tuple(map(described, graph.output)))


def _tflite(path: Path) -> Tensors:
    from ai_edge_litert.interpreter import Interpreter

    try:
        interpreter = Interpreter(model_content=path.read_bytes())
    except (ValueError, RuntimeError) as error:
        raise ModelFileError(f"{path.name}: LiteRT cannot read it: {said(error)}; export or fetch it again") from error

    def described(detail: Any) -> TensorSpec:
        shape = tuple(int(size) if size >= 0 else None for size in detail["shape_signature"])
        return TensorSpec(detail["name"], np.dtype(detail["dtype"]).name, shape)

    return Tensors(tuple(map(described, interpreter.get_input_details())), tuple(map(described, interpreter.get_output_details())))


def _openvino(path: Path) -> Tensors:
    import openvino as ov

    try:
        model = ov.Core().read_model(path)
    except (RuntimeError, UnicodeDecodeError) as error:
        advice = f"put its own {path.stem}.bin beside it, or export both again" if path.suffix == ".xml" else "export it again"
        raise ModelFileError(f"{path.name}: OpenVINO cannot read it: {said(error)}; {advice}") from error

    def described(port: Any) -> TensorSpec:
        shape = port.get_partial_shape()
        sizes = tuple(None if one.is_dynamic else one.get_length() for one in shape) if shape.rank.is_static else ()
        name = port.get_any_name() if port.get_names() else port.get_node().get_friendly_name()
        return TensorSpec(name, np.dtype(port.get_element_type().to_dtype()).name, sizes)

    return Tensors(tuple(map(described, model.inputs)), tuple(map(described, model.outputs)))


def _told(said: Any) -> Tensors:
    def described(entry: Any) -> TensorSpec:
        name, dtype, shape = entry
        return TensorSpec(name, dtype, tuple(shape))

    return Tensors(tuple(map(described, said["inputs"])), tuple(map(described, said["outputs"])))
