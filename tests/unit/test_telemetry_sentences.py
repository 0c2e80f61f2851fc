"""Events in words."""

from __future__ import annotations

import time
from typing import Any

import pytest

from agent.envelopes import row
from agent.sentences import sentence

pytestmark = pytest.mark.unit

FACE = {
    "type": "new", "track": "t1", "box": [1, 2, 3, 4], "score": 0.9, "started_at": 100.0, "ended_at": None, "identity": None, "name": None,
    "decision": "undecided", "distance": None, "threshold": None, "second_best": None, "cluster": None, "frames": 1, "reason": None,
}  # fmt: skip
KNOWN = {"decision": "known", "identity": "i1", "name": "Ada", "distance": 0.312, "threshold": 0.5}
UNKNOWN = {"decision": "unknown", "cluster": "c-7", "distance": 0.7, "threshold": 0.5}


def _say(kind: str, stream: str = "door", **data: Any) -> str:
    head, _, words = sentence({"captured_at": 1_700_000_000.5, "stream": stream, "kind": kind, "data": data}).partition("  ")
    assert head.startswith("2023-11-1")
    return words


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "door: somebody is there"),
        (KNOWN, "door: Ada is there, distance 0.31 of at most 0.50"),
        (
            {**KNOWN, "identity": None, "name": None, "type": "end", "ended_at": 103.0, "reason": "left"},
            "door: somebody (erased) left after 3 s, distance 0.31 of at most 0.50",
        ),
        ({**UNKNOWN, "type": "update"}, "door: it is an unknown person (c-7), distance 0.70 of at most 0.50"),
        ({"type": "update"}, "door: somebody is still there"),
        ({**KNOWN, "type": "end", "ended_at": 112.0, "reason": "left"}, "door: Ada left after 12 s, distance 0.31 of at most 0.50"),
        ({**UNKNOWN, "type": "end", "ended_at": 100.0}, "door: a photograph shows an unknown person (c-7), distance 0.70 of at most 0.50"),
        ({"type": "end", "ended_at": 3825.0, "reason": "stream lost"}, "door: somebody left after 1 h 2 min (stream lost)"),
        ({**KNOWN, "name": "A\x1b[31m\nda"}, "door: A?[31m?da is there, distance 0.31 of at most 0.50"),
    ],
)
def test_faces(data: dict[str, Any], words: str) -> None:
    assert _say("face", **{**FACE, **data}) == words


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "field: shows damaged (score 0.91)"),
        ({"type": "update"}, "field: still shows damaged (score 0.91)"),
        ({"type": "end", "ended_at": 112.0, "reason": "changed"}, "field: no longer shows damaged (score 0.91), after 12 s"),
        ({"type": "end", "ended_at": 112.0, "reason": "stopped"}, "field: no longer shows damaged (score 0.91), after 12 s (stopped)"),
        ({"type": "end", "ended_at": 100.0, "reason": None}, "field: a photograph shows damaged (score 0.91)"),
    ],
)
def test_classifications(data: dict[str, Any], words: str) -> None:
    scores = {"damaged": 0.912, "intact": 0.088}
    usual = {"type": "new", "label": "damaged", "probabilities": scores, "started_at": 100.0, "ended_at": None, "reason": None}
    assert _say("classification", "field", **{**usual, **data}) == words


def test_studies() -> None:
    done = {"item": 32 * "a", "decision": "covid", "positive": "covid", "threshold": 0.41, "scores": {"covid": 0.934}, "reason": None}
    assert _say("study", "xray", **done) == "xray: radiograph aaaaaaaa: the model answers covid, unverified (covid 0.934, from 0.410 on)"
    none = {**done, "decision": None, "scores": {}, "reason": "the view LL is not frontal"}
    assert _say("study", "xray", **none) == "xray: radiograph aaaaaaaa: no answer: the view LL is not frontal"


def test_streams() -> None:
    assert _say("stream", state="running", code="", detail="") == "door: is running"
    assert _say("stream", state="covered", code="STREAM_COVERED", detail="dark") == "door: shows a covered lens [STREAM_COVERED]: dark"


@pytest.mark.parametrize(("at", "year"), [(-1e18, "1-"), (-62_135_596_800.0, "1-"), (253_402_300_799.0, "9999-"), (9e15, "9999-")])
def test_a_time_that_no_calendar_has_is_told_as_the_nearest_that_it_has(monkeypatch: pytest.MonkeyPatch, at: float, year: str) -> None:
    event = {"captured_at": at, "stream": "inbox", "kind": "weather", "id": "d/s/1", "model": "", "data": {}}
    try:
        for zone in ("UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            assert sentence(event).lstrip("0").startswith(year)
            assert row(event)[0].lstrip("0").startswith(year)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_other_kinds() -> None:
    assert _say("weather", stream="", sky="blue") == "device: weather: sky=blue"
