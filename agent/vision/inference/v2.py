"""Open Inference Protocol (KServe v2) over HTTP: what is in the bytes. Neither network nor engine.

Open Inference Protocol, "HTTP/REST" (open-inference/open-inference-protocol, specification/protocol/inference_rest.md): Server Metadata,
Model Metadata, Inference Request and Response JSON objects, Tensor Data Types. Binary tensor data: Triton's extension_binary_data.md
(`Inference-Header-Content-Length`, `binary_data_size`, `binary_data`, `binary_data_output`), and its raw binary request (a header of
length 0: the body is the tensor alone).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent import __version__
from agent.vision.inference.signature import InferenceError, Outputs, Signature, checked_shape, pixels
from engines.backends.base import IMAGE

DATATYPES = {
    "bool": "BOOL", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "int8": "INT8", "int16": "INT16",
    "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
TAKEN: dict[Any, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}
"""What pictures may be sent as."""


@dataclass(frozen=True, slots=True)
class Call:
    """A decoded request. image: (n, height, width, channels) uint8; wanted: outputs by name, and whether in binary."""

    image: NDArray[np.uint8]
    wanted: tuple[tuple[str, bool], ...]
    id: str | None = None


def server() -> dict[str, Any]:
    """Server Metadata."""
    return {"name": "almena", "version": __version__, "extensions": ["binary_tensor_data"]}


def metadata(signature: Signature) -> dict[str, Any]:
    """Model Metadata; what the protocol has no place for is in `parameters`."""
    card = signature.card
    parameters: dict[str, Any] = {"model_id": card.model_id, "task": card.task, "colour": "GREY" if card.input.channels == 1 else "BGR"}
    if card.labels:
        parameters |= {"labels": list(card.labels), "positive": card.positive}
    return {
        "name": signature.name,
        "versions": [signature.version],
        "platform": "almena",
        "inputs": [{"name": IMAGE, "datatype": "UINT8", "shape": [-1, *signature.picture]}],
        "outputs": [
            {"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": [-1, *(size or -1 for size in spec.shape[1:])]}
            for spec in signature.offered
        ],
        "parameters": parameters,
    }


def decode(body: bytearray, header_length: str | None, signature: Signature) -> Call:
    """An inference request. `header_length` is the header Inference-Header-Content-Length. Raises InferenceError (400).

    The picture of a binary request stays where it lies in `body`.
    """
    if header_length == "0":
        return Call(_raw(body, signature), tuple((spec.name, True) for spec in signature.offered))
    head, tail = _split(body, header_length)
    request = parsed(head)
    tensor = _only_input(request)
    image = _tensor(tensor, tail, binary=header_length is not None, signature=signature)
    found = request.get("id")
    if found is not None and not isinstance(found, str):
        raise InferenceError(400, "`id` must be a text")
    return Call(image, _wanted(request, signature), found)


def encode(signature: Signature, call: Call, outputs: Outputs) -> tuple[bytes, int | None]:
    """The body of the answer, and the length of its JSON part where binary tensors follow."""
    parts: list[bytes] = []
    described: list[dict[str, Any]] = []
    for name, binary in call.wanted:
        tensor = np.asarray(outputs[name])
        about: dict[str, Any] = {"name": name, "datatype": DATATYPES[tensor.dtype.name], "shape": list(tensor.shape)}
        if binary:
            parts.append(tensor.tobytes())
            about["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            about["data"] = tensor.ravel().tolist()
        described.append(about)
    answer = {"model_name": signature.name, "model_version": signature.version, "outputs": described}
    head = json.dumps(answer if call.id is None else answer | {"id": call.id}, separators=(",", ":")).encode()
    return (b"".join([head, *parts]), len(head)) if parts else (head, None)


def parsed(data: bytes | bytearray | memoryview) -> dict[str, Any]:
    """A JSON object (RFC 8259: no NaN). Raises InferenceError (400)."""
    try:
        value = json.loads(bytes(data), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InferenceError(400, f"not valid JSON: {type(error).__name__}: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise InferenceError(400, "the request must be a JSON object")
    return value


def numbers(data: Any) -> NDArray[Any]:
    """Nested lists as an array. Raises InferenceError (400) where they are ragged or no numbers."""
    try:
        found = np.array(data)
    except (ValueError, OverflowError, RecursionError) as error:
        raise InferenceError(400, f"the tensor's lists do not form a regular array of numbers: {str(error)[:200]}") from error
    if found.dtype.kind not in "iuf":
        raise InferenceError(400, "the tensor's lists hold something that is no number, or one that is too large")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _split(body: bytearray, header_length: str | None) -> tuple[memoryview, memoryview]:
    view = memoryview(body)
    if header_length is None:
        return view, view[:0]
    if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 12) or int(header_length) > len(body):
        raise InferenceError(400, f"Inference-Header-Content-Length must be 0 to {len(body)}, the length of the body")
    return view[: int(header_length)], view[int(header_length) :]


def _raw(body: bytearray, signature: Signature) -> NDArray[np.uint8]:
    size = math.prod(signature.picture)
    if len(body) % size:
        raise InferenceError(400, f"a raw body must hold whole pictures of {size} bytes, not {len(body)} bytes")
    shape = (len(body) // size, *signature.picture)
    checked_shape(shape, signature)
    return np.frombuffer(body, np.uint8).reshape(shape)


def _only_input(request: dict[str, Any]) -> dict[str, Any]:
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict) or inputs[0].get("name") != IMAGE:
        raise InferenceError(400, f"`inputs` must hold one tensor, named {IMAGE!r}")
    return inputs[0]


def _tensor(tensor: dict[str, Any], tail: memoryview, binary: bool, signature: Signature) -> NDArray[np.uint8]:
    kind, shape = tensor.get("datatype"), _shape(tensor.get("shape"))
    if not isinstance(kind, str) or kind not in TAKEN:
        raise InferenceError(400, f"input {IMAGE!r} must be of datatype {' or '.join(TAKEN)}, not {str(kind)[:40]}")
    checked_shape(shape, signature)
    size = _parameters(tensor).get("binary_data_size")
    if size is None:
        if "data" not in tensor:
            raise InferenceError(400, f"input {IMAGE!r} has neither `data` nor the parameter `binary_data_size`")
        if len(tail):
            raise InferenceError(400, f"{len(tail)} bytes follow the JSON part, of which `inputs` says nothing")
        return pixels(_reshaped(numbers(tensor["data"]), shape), signature)
    expected = math.prod(shape) * TAKEN[kind].itemsize
    if not binary:
        raise InferenceError(400, "`binary_data_size` needs the header Inference-Header-Content-Length")
    if type(size) is not int or size != expected or size != len(tail) or "data" in tensor:
        raise InferenceError(
            400, f"`binary_data_size` is {str(size)[:20]} and {len(tail)} bytes follow the JSON part; {kind} {list(shape)} takes {expected}"
        )
    return pixels(np.frombuffer(tail, TAKEN[kind]).reshape(shape), signature)


def _shape(given: Any) -> tuple[int, ...]:
    if not isinstance(given, list) or any(type(size) is not int for size in given):
        raise InferenceError(400, "`shape` must be a list of whole numbers")
    return tuple(given)


def _reshaped(values: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Data may be nested or flat (Tensor Data: "row-major order")."""
    if values.shape != shape and (values.ndim != 1 or values.size != math.prod(shape)):
        raise InferenceError(400, f"`data` has the shape {list(values.shape)}, `shape` says {list(shape)}")
    return values.reshape(shape)


def _parameters(holder: dict[str, Any]) -> dict[str, Any]:
    parameters = holder.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InferenceError(400, "`parameters` must be an object")
    return parameters


def _wanted(request: dict[str, Any], signature: Signature) -> tuple[tuple[str, bool], ...]:
    """All outputs unless some are named."""
    binary = _flag(_parameters(request), "binary_data_output", False)
    known = [spec.name for spec in signature.offered]
    named = request.get("outputs")
    if not named:
        return tuple((name, binary) for name in known)
    if not isinstance(named, list):
        raise InferenceError(400, "`outputs` must be a list")
    return tuple(_one_wanted(output, known, binary) for output in named)


def _one_wanted(output: Any, known: Sequence[str], binary: bool) -> tuple[str, bool]:
    if not isinstance(output, dict) or output.get("name") not in known:
        raise InferenceError(400, f"`outputs` may name {', '.join(map(repr, known))}")
    parameters = _parameters(output)
    if "classification" in parameters:
        raise InferenceError(400, "the classification extension is not offered; a classifier's output 'probabilities' says the same")
    return output["name"], _flag(parameters, "binary_data", binary)


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InferenceError(400, f"`{name}` must be true or false")
    return value
