"""The rules: what each looks at in a device, when it finds something, and when that is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.errors import UsageError
from fleet.store.batch import clean

Limits = Mapping[str, float]
DAY = 86400.0
HIGHEST = 1e15
PROCESSES = ("vision", "dicom")
"""Of a device, as its telemetry names them; the one that sends it cannot be down."""


@dataclass(frozen=True)
class Stream:
    """One stream of a device by its newest sample."""

    name: str
    state: str
    code: str
    detail: str
    share: float | None
    """Of the expected frame rate, that is processed."""


@dataclass(frozen=True)
class Facts:
    """What the rules look at. `state` is online, stale, offline or stopped."""

    device: str
    state: str
    seen_at: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    streams: tuple[Stream, ...] = ()
    clock_at: float | None = None
    """The device's clock when it took its newest sample."""
    period_s: float = 30.0
    throttled: str = ""
    identity_trouble: str = ""
    certificates: Mapping[str, float] = field(default_factory=dict)
    """When they end, by what they are for; a device's own is for nothing else."""
    lost: int = 0
    """Events declared as lost lately."""
    missing: int = 0
    """Numbers that are neither stored nor declared as lost."""
    down: Mapping[str, str] = field(default_factory=dict)
    """Processes of the device that do not answer, and why."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with a device, or with one of its streams."""

    detail: str
    stream: str = ""


Check = Callable[[Facts, Limits, Callable[[str], bool]], Iterator[Finding]]
"""Gets the rule's limits, and whether an alert fires for a stream already: then `clear` is what ends it."""


@dataclass(frozen=True)
class Rule:
    """A rule as it ships. `online`: it looks at what a device says, and knows nothing while that is silent; `sees`: it looks at streams,
    and knows nothing while the vision process is down."""

    check: Check
    limits: Limits = field(default_factory=dict)
    for_s: float = 0.0
    online: bool = True
    sees: bool = False


def facts(
    device: str, state: str, seen_at: float | None, sample: Mapping[str, Any] | None, figures: Mapping[str, float] | None, lost: int
) -> Facts:
    """Out of a row of the store. Never raises, whatever a device has sent."""
    sample = sample or {}
    ends = _number(_part(sample, "mqtt").get("certificate_ends_at"))
    return Facts(
        device,
        state,
        seen_at,
        figures or {},
        tuple(_streams(_part(sample, "vision").get("streams"))),
        _number(sample.get("at")),
        _number(sample.get("period_s")) or 30.0,
        next((_text(found) for section in ("system", "jetson") if (found := _part(sample, section).get("throttled"))), ""),
        _text(_part(sample, "mqtt").get("identity_trouble")),
        {} if ends is None else {"": ends},
        lost,
        down={name: _text(part.get("reason")) for name in PROCESSES if (part := _part(sample, name)).get("state") == "down"},
    )


def checked(name: str, threshold: Mapping[str, Any]) -> dict[str, float]:
    """The limits of a rule, complete. Raises UsageError for one that it has not, for what is no number, and for an end before the
    beginning."""
    known = RULES[name].limits
    wrong = [key for key in threshold if key not in known]
    if wrong:
        has = ", ".join(known) or "none"
        raise UsageError(f"the rule {name} has no limit {', '.join(map(str, wrong))}; it has: {has}")
    found = {**known, **threshold}
    for key, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not -HIGHEST <= value <= HIGHEST:
            raise UsageError(f"the limit {key} of the rule {name} must be a number")
    clear = found.get("clear")
    if clear is not None and not found.get("below", clear) <= clear <= found.get("above", clear):
        raise UsageError(
            f"the rule {name} would begin again as it ends: clear must not be above the limit above, nor below the limit below"
        )
    return found


def _offline(facts: Facts, _limits: Limits, _active: Callable[[str], bool]) -> Iterator[Finding]:
    if facts.state == "offline":
        yield Finding("nothing is heard of it")


def _process(facts: Facts, _limits: Limits, _active: Callable[[str], bool]) -> Iterator[Finding]:
    for name, reason in facts.down.items():
        yield Finding(reason or "it does not answer", name)


def _stream_is(state: str, code: str) -> Check:
    def check(facts: Facts, _limits: Limits, _active: Callable[[str], bool]) -> Iterator[Finding]:
        for stream in facts.streams:
            if stream.state == state or stream.code == code:
                yield Finding(stream.detail or code, stream.name)

    return check


def _stream_failed(facts: Facts, _limits: Limits, _active: Callable[[str], bool]) -> Iterator[Finding]:
    for stream in facts.streams:
        if stream.code and stream.code not in ("STREAM_FROZEN", "STREAM_COVERED"):
            yield Finding(f"{stream.code}: {stream.detail}" if stream.detail else stream.code, stream.name)


def _above(figure: str, text: str) -> Check:
    def check(facts: Facts, limits: Limits, active: Callable[[str], bool]) -> Iterator[Finding]:
        value = facts.figures.get(figure)
        if value is not None and value >= limits["clear" if active("") else "above"]:
            yield Finding(text.format(value=value, limit=limits["above"]))

    return check


def _throttled(facts: Facts, _limits: Limits, _active: Callable[[str], bool]) -> Iterator[Finding]:
    if facts.throttled:
        yield Finding(facts.throttled)


def _slow(facts: Facts, limits: Limits, active: Callable[[str], bool]) -> Iterator[Finding]:
    for stream in facts.streams:
        limit = limits["clear" if active(stream.name) else "below"]
        if stream.state == "running" and stream.share is not None and stream.share < limit:
            yield Finding(f"{stream.share:.0%} of the expected frames are processed", stream.name)


def _losses(facts: Facts, limits: Limits, _active: Callable[[str], bool]) -> Iterator[Finding]:
    if facts.lost >= limits["above"]:
        yield Finding(f"{facts.lost} events were declared as lost within an hour")


def _missing(facts: Facts, limits: Limits, _active: Callable[[str], bool]) -> Iterator[Finding]:
    """What still waits in the outbox is on its way."""
    missing = facts.missing - facts.figures.get("outbox_depth", 0)
    if missing >= limits["above"]:
        yield Finding(f"{missing:.0f} rows are neither here nor declared as lost")


def _clock(facts: Facts, limits: Limits, _active: Callable[[str], bool]) -> Iterator[Finding]:
    if facts.clock_at is None or facts.seen_at is None:
        return
    ahead = facts.clock_at - facts.seen_at
    if ahead > limits["ahead_s"]:
        yield Finding(f"its clock is {ahead:.0f} s ahead of the hub's")
    elif -ahead > limits["behind_s"] + 3 * facts.period_s:
        yield Finding(f"its clock is {-ahead:.0f} s behind the hub's")


def _certificate(facts: Facts, limits: Limits, _active: Callable[[str], bool]) -> Iterator[Finding]:
    if facts.identity_trouble:
        yield Finding(facts.identity_trouble)
        return
    for what, ends in facts.certificates.items() if facts.seen_at else ():
        days = (ends - (facts.seen_at or 0.0)) / DAY
        if days < limits["days"]:
            yield Finding(f"its certificate ends in {days:.1f} days" if days > 0 else "its certificate has ended", what)


RULES: dict[str, Rule] = {
    "offline": Rule(_offline, for_s=60, online=False),
    "process": Rule(_process, for_s=120),
    "frozen": Rule(_stream_is("frozen", "STREAM_FROZEN"), for_s=30, sees=True),
    "covered": Rule(_stream_is("covered", "STREAM_COVERED"), for_s=30, sees=True),
    "stream": Rule(_stream_failed, for_s=120, sees=True),
    "hot": Rule(_above("temperature_c", "{value:.0f} °C, from {limit:g} on it is too hot"), {"above": 85.0, "clear": 80.0}, 60),
    "throttled": Rule(_throttled, for_s=60),
    "slow": Rule(_slow, {"below": 0.5, "clear": 0.7}, 120, sees=True),
    "losses": Rule(_losses, {"above": 1.0}, online=False),
    "missing": Rule(_missing, {"above": 1.0}, 600),
    "outbox": Rule(_above("outbox_oldest_s", "the oldest event waits for {value:.0f} s"), {"above": 600.0, "clear": 60.0}, 60),
    "disk": Rule(_above("disk_percent", "its disk is {value:.0f} % full, the limit is {limit:g} %"), {"above": 90.0, "clear": 85.0}, 60),
    "clock": Rule(_clock, {"ahead_s": 60.0, "behind_s": 3600.0}, 120),
    "certificate": Rule(_certificate, {"days": 7.0}, 300),
}


def _streams(found: Any) -> Iterator[Stream]:
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict):
            rate, expected = _number(one.get("processed_per_second")), _number(one.get("expected_per_second"))
            share = rate / expected if rate is not None and expected else None
            yield Stream(_text(one.get("stream"))[:63], _text(one.get("state")), _text(one.get("code")), _text(one.get("detail")), share)


def _part(whole: Mapping[str, Any], name: str) -> dict[str, Any]:
    part = whole.get(name)
    return part if isinstance(part, dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15 else None


def _text(value: Any) -> str:
    """One line of at most 200 letters, that a database can keep."""
    return clean(" ".join(str(value).split()), 200) if value else ""
