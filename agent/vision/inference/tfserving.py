"""TensorFlow Serving's RESTful API: what is in the bytes. Neither network nor engine.

TensorFlow Serving, "RESTful API" (tensorflow/serving, tensorflow_serving/g3doc/api_rest.md): Model status API, Model Metadata API,
Predict API in row (`instances`) and column (`inputs`) format, Encoding binary values (`{"b64": …}`). Signatures: `serving_default` gives
the model's own outputs, `probabilities` what a classifier's decoder makes of them.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.vision.inference.signature import PROBABILITIES, InferenceError, Outputs, Signature, checked_shape, pixels
from agent.vision.inference.v2 import numbers, parsed
from engines.backends.base import IMAGE

DEFAULT = "serving_default"
TYPES = {"float32": "DT_FLOAT", "float64": "DT_DOUBLE", "float16": "DT_HALF", "int32": "DT_INT32", "int64": "DT_INT64", "uint8": "DT_UINT8"}
Fit = Callable[[bytes], NDArray[np.uint8]]
"""Makes (height, width, channels) uint8 of the bytes of a picture file. Raises InferenceError."""


@dataclass(frozen=True, slots=True)
class Call:
    """A decoded request. image: (n, height, width, channels) uint8; wanted: names of outputs; by_row: the answer is in row format."""

    image: NDArray[np.uint8]
    wanted: tuple[str, ...]
    by_row: bool


def status(version: str, state: str, message: str = "") -> dict[str, Any]:
    """Model status: `state` is LOADING, AVAILABLE, UNLOADING or START."""
    told = {"error_code": "UNKNOWN" if message else "OK", "error_message": message}
    return {"model_version_status": [{"version": version, "state": state, "status": told}]}


def metadata(signature: Signature) -> dict[str, Any]:
    """Model Metadata: the signatures."""

    def tensor(name: str, dtype: str, shape: tuple[int | None, ...]) -> dict[str, Any]:
        sizes = [{"size": str(-1 if size is None else size), "name": ""} for size in shape]
        return {"name": name, "dtype": TYPES.get(dtype, "DT_INVALID"), "tensor_shape": {"dim": sizes, "unknown_rank": False}}

    def one(wanted: tuple[str, ...]) -> dict[str, Any]:
        outputs = {spec.name: tensor(spec.name, spec.dtype, (None, *spec.shape[1:])) for spec in signature.offered if spec.name in wanted}
        inputs = {IMAGE: tensor(IMAGE, "uint8", (None, *signature.picture))}
        return {"inputs": inputs, "outputs": outputs, "method_name": "tensorflow/serving/predict"}

    signatures = {name: one(wanted) for name, wanted in _signatures(signature).items()}
    return {
        "model_spec": {"name": signature.name, "signature_name": "", "version": signature.version},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def decode(body: bytearray, signature: Signature, fit: Fit) -> Call:
    """A predict request. Raises InferenceError (400)."""
    request = parsed(body)
    if unknown := request.keys() - {"signature_name", "instances", "inputs"}:
        raise InferenceError(400, f"unknown key {sorted(unknown)[0][:40]!r}: a request has `signature_name` and `instances` or `inputs`")
    if ("instances" in request) == ("inputs" in request):
        raise InferenceError(400, "give `instances` (rows) or `inputs` (columns), one of them")
    named = request.get("signature_name", DEFAULT)
    known = _signatures(signature)
    if not isinstance(named, str) or named not in known:
        raise InferenceError(400, f"`signature_name` may be {' or '.join(map(repr, known))}")
    by_row = "instances" in request
    rows = [_unnamed(row) for row in _list(request["instances"])] if by_row else _list(_unnamed(request["inputs"]))
    return Call(_image(rows, signature, fit), known[named], by_row)


def encode(call: Call, outputs: Outputs) -> bytes:
    """The answer in the format of the request; an only output has no name."""
    columns = {name: np.asarray(outputs[name]).tolist() for name in call.wanted}
    only = next(iter(columns.values())) if len(columns) == 1 else None
    if not call.by_row:
        answer = {"outputs": columns if only is None else only}
    elif only is None:
        answer = {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}
    else:
        answer = {"predictions": only}
    return json.dumps(answer).encode()


def _signatures(signature: Signature) -> dict[str, tuple[str, ...]]:
    own = tuple(spec.name for spec in signature.outputs)
    return {DEFAULT: own, PROBABILITIES: (PROBABILITIES,)} if signature.card.labels else {DEFAULT: own}


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise InferenceError(400, "`instances` or `inputs` must be a list of pictures that is not empty")
    return value


def _unnamed(value: Any) -> Any:
    """A tensor may be given under the input's name."""
    if isinstance(value, dict) and "b64" not in value:
        if value.keys() != {IMAGE}:
            raise InferenceError(400, f"the only input is {IMAGE!r}")
        return value[IMAGE]
    return value


def _image(rows: list[Any], signature: Signature, fit: Fit) -> NDArray[np.uint8]:
    if not any(isinstance(row, dict) for row in rows):
        found = numbers(rows)
        return pixels(found[..., None] if found.ndim == 3 and signature.picture[2] == 1 else found, signature)
    checked_shape((len(rows), *signature.picture), signature)
    return np.stack([fit(_file(row)) for row in rows])


def _file(row: Any) -> bytes:
    if not isinstance(row, dict) or row.keys() != {"b64"} or not isinstance(row["b64"], str):
        raise InferenceError(400, 'a picture file is {"b64": "…"}; files and numbers cannot be mixed')
    try:
        return base64.b64decode(row["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise InferenceError(400, f"`b64` is not valid base64: {error}") from error
