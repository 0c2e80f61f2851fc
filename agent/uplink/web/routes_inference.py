"""Open Inference Protocol v2 under /v2 and TensorFlow Serving's predict under /v1. The vision process answers; see docs/engines.md."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.uplink.web.guard import is_inference
from agent.uplink.web.relay import Relay

_ERROR = {"type": "object", "properties": {"error": {"type": "string"}}, "required": ["error"]}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"type": "string"},
        "datatype": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "data": {"type": "array", "items": {}},
        "parameters": {"type": "object"},
    },
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "items": _TENSOR},
        "outputs": {"type": "array", "items": {"type": "object"}},
    },
}
_PREDICT = {
    "type": "object",
    "properties": {"signature_name": {"type": "string"}, "instances": {"type": "array", "items": {}}, "inputs": {}},
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_REFUSALS = {
    400: "The request is not valid.",
    403: "The model's outputs are face templates, which the settings do not serve.",
    404: "There is no such model or version.",
    413: "The body is too large.",
    429: "The queue is full; Retry-After says when to try again.",
    503: "The model is not ready, or did not answer in time.",
}


class InferencePaths:
    """Takes inference requests out before the framework, which would cost more than the rest of their way; `beyond` gets all others."""

    def __init__(self, relay: Relay, beyond: ASGIApp) -> None:
        self._relay = relay
        self._beyond = beyond

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        await (self._relay if scope["type"] == "http" and is_inference(scope["path"]) else self._beyond)(scope, receive, send)


def describe(app: FastAPI) -> None:
    """Add the inference paths to the application's OpenAPI description."""
    own = app.openapi

    def openapi() -> dict[str, Any]:
        schema = own()
        schema["paths"] |= paths()
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def paths() -> dict[str, Any]:
    """The OpenAPI paths of both protocols."""
    found = {
        "/v2": {"get": _get("The server and its extensions.")},
        "/v2/health/live": {"get": _get("The vision process answers.")},
        "/v2/health/ready": {"get": _get("All models are ready; 503 while one is not.")},
    }
    infer = {
        "application/json": {"schema": _INFER},
        "application/octet-stream": _BINARY,
    }
    for version in ("", "/versions/{version}"):
        named = ("name", "version") if version else ("name",)
        v2, v1 = f"/v2/models/{{name}}{version}", f"/v1/models/{{name}}{version}"
        found |= {
            v2: {"get": _get("Inputs, outputs and labels of a model.", named)},
            f"{v2}/ready": {"get": _get("Whether a model is ready; 503 while it is not.", named)},
            f"{v2}/infer": {"post": _post("Open Inference Protocol v2, JSON or with binary tensors.", named, infer)},
            v1: {"get": _get("State of a model.", named)},
            f"{v1}/metadata": {"get": _get("Signatures of a model.", named)},
            f"{v1}:predict": {
                "post": _post("TensorFlow Serving's predict, by row or by column.", named, {"application/json": {"schema": _PREDICT}})
            },
        }
    return found


def _get(summary: str, named: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "tags": ["inference"],
        "description": summary,
        "parameters": _named(named),
        "responses": _responses((404, 503) if named else (503,)),
    }


def _post(summary: str, named: tuple[str, ...], content: dict[str, Any]) -> dict[str, Any]:
    return {
        "tags": ["inference"],
        "description": summary,
        "parameters": _named(named),
        "requestBody": {"required": True, "content": content},
        "responses": _responses(tuple(_REFUSALS)),
    }


def _named(names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _responses(refusals: tuple[int, ...]) -> dict[str, Any]:
    content = {"application/json": {"schema": _ERROR}}
    refused = {str(status): {"description": _REFUSALS[status], "content": content} for status in refusals}
    return {"200": {"description": "Answered."}} | refused
