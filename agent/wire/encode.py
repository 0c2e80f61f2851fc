"""Objects to bytes and back."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import ValidationError

from agent.datatypes import Event
from agent.wire.payloads import DATA, MAX_PAYLOAD, VERSION, Envelope, Versioned, WireError

P = TypeVar("P", bound=Versioned)
_AnyEvent = Envelope[dict[str, Any]]


def _plain(value: Any) -> Any:
    """numpy's scalars and arrays as Python's own."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain).encode


def encode_event(event: Event, *, device: str, outbox: str = "", spool: str, seq: int, boot_id: str, clock: str, host: str) -> bytes:
    """The envelope of an event, final as it will be sent. Raises WireError if its data have no JSON form or it is too large."""
    envelope = {
        "v": VERSION,
        "id": f"{device}/{spool}/{seq}",
        "outbox": outbox,
        "stream": event.stream,
        "kind": event.kind,
        "captured_at": event.captured_at,
        "mono_ns": event.mono_ns,
        "boot_id": boot_id,
        "clock": clock,
        "model": event.model,
        "host": host,
        "data": event.data if type(event.data) is dict else dict(event.data),
    }
    try:
        payload = _to_json(envelope).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"an event of kind {event.kind!r} cannot be written as JSON: {error}") from error
    if len(payload) > MAX_PAYLOAD:
        raise WireError(f"an event of kind {event.kind!r} has {len(payload)} bytes; at most {MAX_PAYLOAD} are allowed")
    return payload


def encode(payload: Versioned) -> bytes:
    """Any other payload as JSON. Raises WireError for what JSON cannot carry: half a surrogate pair, a deep nesting."""
    try:
        return payload.model_dump_json().encode()
    except ValueError as error:
        raise WireError(f"{_name(type(payload))} cannot be written as JSON: {error}") from None


def decode(model: type[P], payload: bytes) -> P:
    """Read a payload. Raises WireError with what is wrong with it; never with its content."""
    if len(payload) > MAX_PAYLOAD:
        raise WireError(f"{_name(model)}: {len(payload)} bytes; at most {MAX_PAYLOAD} are allowed")
    try:
        return model.model_validate_json(payload)
    except ValidationError as error:
        raise WireError(f"{_name(model)}: {_reasons(error)}") from None


def decode_event(payload: bytes) -> Envelope[dict[str, Any]]:
    """Read an envelope of any kind; the data of the known kinds are checked too. Raises WireError."""
    envelope = decode(_AnyEvent, payload)
    data = DATA.get(envelope.kind)
    if data is not None:
        try:
            data.model_validate(envelope.data)
        except ValidationError as error:
            raise WireError(f"{envelope.kind}: {_reasons(error)}") from None
    return envelope


def _name(model: type[Versioned]) -> str:
    return model.__name__.partition("[")[0].lower()


def _reasons(error: ValidationError) -> str:
    details = error.errors(include_input=False, include_url=False, include_context=False)
    shown = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}".removeprefix(": ") for detail in details[:3]]
    more = f" and {len(details) - 3} more" if len(details) > 3 else ""
    return "; ".join(shown) + more
