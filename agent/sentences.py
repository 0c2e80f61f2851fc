"""Events as sentences, for people."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent.clock import date_of

Data = Mapping[str, Any]

STATES = {
    "connecting": "is connecting",
    "running": "is running",
    "frozen": "shows a frozen picture",
    "covered": "shows a covered lens",
    "failed": "has failed",
    "finished": "is finished",
}


def sentence(envelope: Mapping[str, Any]) -> str:
    """One line for an envelope: local time, stream, and what happened; control characters are replaced.

    Kinds that it does not know are shown as key=value.
    """
    when = date_of(envelope["captured_at"]).strftime("%Y-%m-%d %H:%M:%S")
    what = _WORDS.get(envelope["kind"], _other)(envelope["data"])
    if envelope["kind"] not in _WORDS:
        what = f"{envelope['kind']}: {what}"
    return "".join(letter if letter.isprintable() else "?" for letter in f"{when}  {envelope['stream'] or 'device'}: {what}")


def _face(data: Data) -> str:
    who = _who(data)
    if data["type"] == "new":
        return f"{who} is there{_evidence(data)}"
    if data["type"] == "update":
        return f"{who} is still there" if data["decision"] == "undecided" else f"it is {who}{_evidence(data)}"
    if data["reason"] is None:
        return f"a photograph shows {who}{_evidence(data)}"
    seconds = (data["ended_at"] or data["started_at"]) - data["started_at"]
    why = "" if data["reason"] == "left" else f" ({data['reason']})"
    return f"{who} left after {_duration(seconds)}{why}{_evidence(data)}"


def _who(data: Data) -> str:
    if data["decision"] == "known":
        return data["name"] or data["identity"] or "somebody (erased)"
    if data["decision"] == "unknown":
        return f"an unknown person ({data['cluster']})" if data["cluster"] else "an unknown person"
    return "somebody"


def _evidence(data: Data) -> str:
    if data["decision"] == "undecided" or data["distance"] is None:
        return ""
    return f", distance {data['distance']:.2f} of at most {data['threshold']:.2f}"


def _classification(data: Data) -> str:
    shown = f"shows {data['label']} (score {data['probabilities'][data['label']]:.2f})"
    if data["type"] != "end":
        return shown if data["type"] == "new" else f"still {shown}"
    if data["reason"] is None:
        return f"a photograph {shown}"
    why = "" if data["reason"] in ("changed", "left") else f" ({data['reason']})"
    return f"no longer {shown}, after {_duration(data['ended_at'] - data['started_at'])}{why}"


def _study(data: Data) -> str:
    name = f"radiograph {data['item'][:8]}"
    if data["decision"] is None:
        return f"{name}: no answer: {data['reason']}"
    score = data["scores"][data["positive"]]
    return f"{name}: the model answers {data['decision']}, unverified ({data['positive']} {score:.3f}, from {data['threshold']:.3f} on)"


def _loss(data: Data) -> str:
    return f"{data['count']} of lane {data['lane']} lost: {data['reason']}"


def _stream(data: Data) -> str:
    text = STATES.get(data["state"], data["state"])
    code = f" [{data['code']}]" if data.get("code") else ""
    return f"{text}{code}{': ' + data['detail'] if data.get('detail') else ''}"


def _other(data: Data) -> str:
    return " ".join(f"{key}={value}" for key, value in data.items())


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


_WORDS: dict[str, Callable[[Data], str]] = {
    "face": _face,
    "classification": _classification,
    "study": _study,
    "stream": _stream,
    "loss": _loss,
}
