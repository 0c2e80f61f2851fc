"""Backends, decoders and converters by name. A name becomes a module only when somebody asks for it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from engines.errors import MissingRuntimeError, UnknownNameError

if TYPE_CHECKING:
    from engines.card import Format

BACKENDS = {
    "openvino": "engines.backends.openvino:OpenVinoBackend",
    "onnxruntime": "engines.backends.onnxruntime:OnnxRuntimeBackend",
    "tensorrt": "engines.backends.tensorrt:TensorRtBackend",
    "litert": "engines.backends.litert:LiteRtBackend",
    "tensorflow": "engines.backends.tensorflow:TensorFlowBackend",
}

MODULES = {
    "tensorrt": "tensorrt",
    "openvino": "openvino",
    "onnxruntime": "onnxruntime",
    "litert": "ai_edge_litert",
    "tensorflow": "tensorflow",
}
"""By backend: the module whose presence says that its runtime is installed."""

DECODERS = {
    "centerface": "engines.decoders.centerface:CenterFaceDecoder",
    "blazeface": "engines.decoders.blazeface:BlazeFaceDecoder",
    "yunet": "engines.decoders.yunet:YuNetDecoder",
    "embedding": "engines.decoders.embedding:EmbeddingDecoder",
    "classification": "engines.decoders.classification:ClassificationDecoder",
}

CONVERTERS = {
    "onnx-from-dlib-1": "engines.convert.onnx_from_dlib:OnnxFromDlib",
    "onnx-from-onnx-1": "engines.convert.onnx_from_onnx:OnnxFromOnnx",
    "savedmodel-from-keras-1": "engines.convert.tensorflow:SavedModelFromKeras",
    "onnx-from-savedmodel-1": "engines.convert.tensorflow:OnnxFromSavedModel",
    "onnx-from-tflite-1": "engines.convert.tensorflow:OnnxFromTflite",
    "tflite-from-savedmodel-1": "engines.convert.tensorflow:TfliteFromSavedModel",
    "openvino-from-any-1": "engines.convert.openvino_from_any:OpenVinoFromAny",
}

CONVERSIONS: dict[tuple[Format, Format], str] = {
    ("dlib", "onnx"): "onnx-from-dlib-1",
    ("keras", "savedmodel"): "savedmodel-from-keras-1",
    ("savedmodel", "onnx"): "onnx-from-savedmodel-1",
    ("savedmodel", "tflite"): "tflite-from-savedmodel-1",
    ("tflite", "onnx"): "onnx-from-tflite-1",
    ("onnx", "openvino"): "openvino-from-any-1",
    ("savedmodel", "openvino"): "openvino-from-any-1",
    ("tflite", "openvino"): "openvino-from-any-1",
}
"""The converter from one format to another."""

INSTALL = {"cv2": "opencv-python-headless", "ai_edge_litert": "ai-edge-litert"}


def resolve(table: Mapping[str, str], name: str, what: str) -> Any:
    """The class that `name` stands for in `table`.

    Raises UnknownNameError, or MissingRuntimeError where its library is not installed or cannot be loaded.
    """
    if name not in table:
        raise unknown(name, table, what)
    module, _, attribute = table[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("engines", ""):
            raise
        raise MissingRuntimeError(
            f"{what} {name!r} needs {missing}, which is not installed: pip install {INSTALL.get(missing, missing)}"
        ) from error
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "engines":
            raise
        raise MissingRuntimeError(f"{what} {name!r} cannot be loaded: {error}; `almena doctor` says what is missing") from error


def unknown(name: str, known: Iterable[str], what: str) -> UnknownNameError:
    """The error that says which names there are."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownNameError(f"no {what} is called {name!r}.{hint} There are: {', '.join(names)}.")
