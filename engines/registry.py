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
}

MODULES = {"openvino": "openvino", "onnxruntime": "onnxruntime"}
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
}

CONVERSIONS: dict[tuple[Format, Format], str] = {
    ("dlib", "onnx"): "onnx-from-dlib-1",
}
"""The converter from one format to another."""

INSTALL = {"cv2": "opencv-python-headless"}


def resolve(table: Mapping[str, str], name: str, what: str) -> Any:
    """The class that `name` stands for in `table`. Raises UnknownNameError, or MissingRuntimeError where its library is not installed."""
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


def unknown(name: str, known: Iterable[str], what: str) -> UnknownNameError:
    """The error that says which names there are."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownNameError(f"no {what} is called {name!r}.{hint} There are: {', '.join(names)}.")
