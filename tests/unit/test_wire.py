"""The wire protocol: topics, payloads, schemas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import wire
from agent.datatypes import Event
from agent.wire import __main__ as generator

pytestmark = pytest.mark.unit

SPOOL = "0123456789abcdef"
FACE: dict[str, Any] = {
    "type": "end",
    "track": "t1",
    "box": [1.0, 2.0, 30.5, 40.0],
    "score": 0.98,
    "started_at": 1.0,
    "ended_at": 2.0,
    "identity": "i1",
    "name": "Ada",
    "decision": "known",
    "distance": 0.3,
    "threshold": 0.6,
    "second_best": None,
    "cluster": None,
    "frames": 7,
    "reason": "left",
}
CLASSIFICATION: dict[str, Any] = {
    "type": "end",
    "track": "e1",
    "label": "damaged",
    "positive": True,
    "probabilities": {"damaged": 0.91, "intact": 0.09},
    "threshold": 0.5,
    "started_at": 1.0,
    "ended_at": 2.0,
    "frames": 7,
    "reason": "changed",
}
STUDY: dict[str, Any] = {
    "item": 2 * SPOOL,
    "modality": "DX",
    "view": "PA",
    "decision": "covid",
    "positive": "covid",
    "threshold": 0.41,
    "scores": {"covid": 0.9, "normal": 0.04, "pneumonia": 0.06},
    "abstained": None,
    "reason": None,
    "heat_map": True,
    "timings": {"queue": 0.002, "infer": 0.004},
}
DATA: dict[str, dict[str, Any]] = {
    "face": FACE,
    "classification": CLASSIFICATION,
    "study": STUDY,
    "stream": {"state": "failed", "code": "STREAM_TIMEOUT", "detail": "no frame for 10 s"},
    "audit": {"action": "identity.erase", "actor": "web", "outcome": "done", "detail": {}},
    "loss": {"lane": "event", "spool": SPOOL, "reason": "evicted", "count": 3, "ranges": [[1, 3]], "since": 1.0, "until": 2.0},
    "clock": {"mono_ns": 5, "wall": 1.5},
    "telemetry": {"samples": [{"at": 1.0, "cpu": 0.5}]},
}


def encoded(kind: str, data: dict[str, Any], stream: str = "cam") -> bytes:
    event = Event(stream, kind, data, 1700000000.25, 123, model="m")
    return wire.encode_event(event, device="dev", spool=SPOOL, seq=7, boot_id="b", clock="synced", host="h")


@pytest.mark.parametrize("kind", sorted(wire.DATA))
def test_the_fast_path_follows_the_schema(kind: str) -> None:
    payload = encoded(kind, DATA[kind])
    jsonschema.Draft202012Validator(wire.schemas()[kind]).validate(json.loads(payload))
    envelope = wire.decode_event(payload)
    assert (envelope.device, envelope.spool, envelope.seq) == ("dev", SPOOL, 7)
    assert envelope.data == DATA[kind]


@pytest.mark.parametrize("name", sorted(wire.PAYLOADS))
def test_schemas_are_valid_and_refuse_another_version(name: str) -> None:
    schema = wire.schemas()[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    errors = jsonschema.Draft202012Validator(schema).iter_errors({"v": 2})
    assert any(list(error.path) == ["v"] for error in errors)


def test_the_schemas_in_docs_are_current() -> None:
    folder = Path(__file__).parents[2] / "docs" / "schemas"
    assert {path.name: path.read_text() for path in folder.glob("*.json")} == generator.files()


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "json"),
        (b"[]", "object"),
        (b"\xff\xfe", "json"),
        (b"[" * 100_000, "json"),
        (encoded("face", FACE).replace(b'"v":1', b'"v":2'), "v: "),
        (encoded("face", FACE).replace(SPOOL.encode(), b"xyz"), "id: "),
        (encoded("face", {**FACE, "decision": "perhaps"}), "decision"),
        (b'"' + b"x" * wire.MAX_PAYLOAD + b'"', "bytes"),
    ],
)
def test_bad_events_are_refused_with_a_reason(payload: bytes, said: str) -> None:
    with pytest.raises(wire.WireError, match=f"(?i){said}"):
        wire.decode_event(payload)


def test_errors_do_not_repeat_what_was_sent() -> None:
    with pytest.raises(wire.WireError) as caught:
        wire.decode_event(encoded("face", {**FACE, "frames": "Ada Lovelace"}))
    assert "Ada" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "payload", "said"),
    [
        (wire.Ack, {"spool": SPOOL, "ranges": [[7, 6]]}, "above its last"),
        (wire.Ack, {"spool": SPOOL, "ranges": [[1, 2**63]]}, "ranges"),
        (wire.Ack, {"spool": SPOOL, "refused": [{"seq": 2**63, "reason": "x"}]}, "refused"),
    ],
)
def test_numbers_that_no_row_can_have_are_refused(model: type[wire.Versioned], payload: dict[str, Any], said: str) -> None:
    with pytest.raises(wire.WireError, match=said):
        wire.decode(model, json.dumps({"v": 1, **payload}).encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [(f"{SPOOL}/7", f"{SPOOL}/1" + "0" * 18), ('"mono_ns":123', f'"mono_ns":{2**63}'), ('"ranges":[[1,3]]', '"ranges":[[3,1]]')],
)
def test_events_with_numbers_that_no_row_can_have_are_refused(old: str, new: str) -> None:
    payload = encoded("loss", DATA["loss"]).decode()
    assert old in payload
    with pytest.raises(wire.WireError):
        wire.decode_event(payload.replace(old, new).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    for model in wire.PAYLOADS.values():
        with pytest.raises(wire.WireError):
            wire.decode(model, payload)


def test_numpy_values_are_written_as_numbers() -> None:
    payload = encoded("x", {"score": np.float32(0.5), "box": np.arange(2), "count": np.int64(3)})
    assert json.loads(payload)["data"] == {"score": 0.5, "box": [0, 1], "count": 3}


@pytest.mark.parametrize("value", [float("nan"), object(), "x" * wire.MAX_PAYLOAD, "\ud800"])
def test_what_has_no_valid_form_is_refused(value: Any) -> None:
    with pytest.raises(wire.WireError, match="kind 'x'"):
        encoded("x", {"value": value})


def test_other_payloads_come_back_as_they_went() -> None:
    ack = wire.Ack(spool=SPOOL, upto=4, ranges=((6, 7),), refused=(wire.Refusal(seq=5, reason="schema"),))
    assert wire.decode(wire.Ack, wire.encode(ack)) == ack
    assert wire.decode(wire.Will, b'{"v":1,"session":"s","later":true}').session == "s"


def test_topics_are_built_and_taken_apart() -> None:
    parts = {"stream": "door", "kind": "face", "id": "c-1", "name": "models.fetch"}
    for name, topic in wire.TOPICS.items():
        text = topic.of("dev", **parts)
        address = wire.parse(text)
        assert address.topic.name == name
        assert address.device == ("" if name == "hub-state" else "dev")
        assert topic.filter("dev").count("/") == text.count("/")
    assert wire.TOPICS["event"].of("dev", **parts) == "almena/1/dev/up/event/door/face"
    assert wire.TOPICS["event"].filter() == "almena/1/+/up/event/+/+"
    assert wire.lane_topic("dev", "loss") == "almena/1/dev/up/loss"
    assert wire.TOPICS["hub-state"].of() == "almena/1/hub/state"


@pytest.mark.parametrize("device", ["hub", "Dev", "a/b", "+", "", "x" * 64])
def test_bad_devices_have_no_topics(device: str) -> None:
    with pytest.raises(wire.WireError):
        wire.TOPICS["status"].of(device)
    with pytest.raises(wire.WireError):
        wire.parse(f"almena/1/{device}/status")


def test_a_missing_part_is_named() -> None:
    with pytest.raises(wire.WireError, match="kind"):
        wire.TOPICS["event"].of("dev", stream="door")


def test_every_topic_names_payloads_that_exist() -> None:
    for topic in wire.TOPICS.values():
        assert set(topic.payloads) <= set(wire.PAYLOADS)
