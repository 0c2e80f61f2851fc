"""Messages made from the JSON Schemas of the protocol and then broken, by chance: what a faulty or hostile device may send to the hub."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
EVIL = "evil-1"
TOPICS = {
    "birth": "status", "will": "status", "event": "up/event/cam/count", "face": "up/event/cam/face", "stream": "up/event/cam/stream",
    "classification": "up/event/cam/classification", "study": "up/event/cam/study", "audit": "up/audit", "loss": "up/loss",
    "clock": "up/clock", "telemetry": "up/telemetry", "reported": "up/reported", "reply": "up/reply/c-1",
}  # fmt: skip
STRANGE: tuple[Any, ...] = (
    "", "\0",
    "x" * 70_000, "<script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "'; DROP TABLE events; --", "../../../etc/passwd",
    "\x1b[2J\x1b]0;title\x07", "\u202eevil", "\ud83d\ude00", "=cmd|'/c calc'!A1", "${jndi:ldap://x}", "%s%n", "null", "NaN",
    None, True, 0, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -1e308, -1e30, math.inf, 10**4299, 5e-324,
    [], {}, [[[[]]]], {"": {"": {}}},
    {"__proto__": 1}, [0] * 1000,
)  # fmt: skip
RAW = (
    b"",
    b"\0",
    b"{",
    b"null",
    b"[]",
    b"\xff\xfe",
    b'{"v":1e999}',
    b'{"v":NaN}',
    b"[" * 5000,
    b'{"a":' * 3000,
    b'{"v":1,"v":2}',
    b'"\\ud800"',
)


def message(chance: random.Random) -> tuple[str, bytes]:
    """Topic and payload; some are as they should be."""
    kind = chance.choice(list(TOPICS))
    value = _instance(_schema(kind), _schema(kind), chance)
    if "id" in value and kind not in ("reply", "birth", "will"):
        value |= {
            "id": f"{EVIL}/{chance.randrange(3):016x}/{chance.randrange(1, 60)}",
            "stream": "cam" if "/cam/" in TOPICS[kind] else "",
        }
        value["kind"] = "count" if kind == "event" else kind
    if kind == "telemetry":
        streams = [{"stream": "cam", "state": "failed", "code": "X", "processed_per_second": 1.5}]
        for sample in value["data"]["samples"]:
            sample |= {"system": {"cpu_percent": 7, "temperatures_c": {"cpu": 99}}, "vision": {"streams": streams}}
    for _ in range(chance.choice((0, 1, 1, 2, 5))):
        value = _broken(value, chance)
    payload = json.dumps(value, ensure_ascii=chance.random() < 0.5).encode(errors="surrogatepass")
    if chance.random() < 0.1:
        payload = chance.choice(RAW)
    elif chance.random() < 0.1:
        payload = _cut(payload, chance)
    topic = f"almena/1/{EVIL}/{TOPICS[kind]}"
    return (chance.choice(list(TOPICS.values())).join((f"almena/1/{EVIL}/", "")) if chance.random() < 0.1 else topic), payload


def hostile(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """So many of them."""
    chance = random.Random(seed)
    for _ in range(count):
        yield message(chance)


@cache
def _schema(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SCHEMAS / f"{kind}.json").read_text())
    return found


def _instance(schema: dict[str, Any], root: dict[str, Any], chance: random.Random) -> Any:
    """Something that the schema allows."""
    if "$ref" in schema:
        return _instance(root["$defs"][schema["$ref"].rpartition("/")[2]], root, chance)
    for key in ("anyOf", "enum"):
        if key in schema:
            one = chance.choice(schema[key])
            return _instance(one, root, chance) if key == "anyOf" else one
    if "const" in schema:
        return schema["const"]
    kind = schema.get("type")
    if kind == "object":
        wanted = schema.get("properties", {})
        found = {
            name: _instance(part, root, chance)
            for name, part in wanted.items()
            if name in schema.get("required", ()) or chance.random() < 0.8
        }
        if not wanted and isinstance(schema.get("additionalProperties"), dict):
            found = {name: _instance(schema["additionalProperties"], root, chance) for name in ("a", "b")}
        return found
    if kind == "array":
        parts = schema.get("prefixItems") or [schema.get("items", {})] * chance.randrange(3)
        return [_instance(part, root, chance) for part in parts]
    plain = {"string": _text, "integer": _integer, "number": lambda _s, c: c.uniform(0, 2e9), "boolean": lambda _s, c: c.random() < 0.5}
    return plain[kind](schema, chance) if kind in plain else None


def _text(schema: dict[str, Any], chance: random.Random) -> str:
    pattern = schema.get("pattern", "")
    if "[0-9a-f]{" in pattern and "/" not in pattern:
        return f"{chance.randrange(16**8):0{32 if '32' in pattern else 16}x}"
    return chance.choice(("cam", "count", "a", "b-1"))


def _integer(schema: dict[str, Any], chance: random.Random) -> int:
    return chance.choice((1, 2, 50, schema.get("minimum", 0), schema.get("maximum", 10**6)))  # type: ignore[no-any-return]


def _broken(value: Any, chance: random.Random) -> Any:
    """With one place changed: another value, a member less, one more, one twice as deep."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        name = chance.choice(list(value))
        how = chance.random()
        if how < 0.15:
            return {key: kept for key, kept in value.items() if key != name}
        if how < 0.25:
            return {**value, str(chance.choice(STRANGE))[:100]: chance.choice(STRANGE)}
        return {**value, name: _broken(value[name], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        return [*value[:place], _broken(value[place], chance), *value[place + chance.randrange(2) :]]
    return chance.choice(STRANGE)


def _cut(payload: bytes, chance: random.Random) -> bytes:
    """Without its end, or with a byte changed."""
    place = chance.randrange(len(payload))
    return payload[:place] if chance.random() < 0.5 else payload[:place] + bytes([chance.randrange(256)]) + payload[place + 1 :]
