"""Looks at all devices every few seconds: alerts begin, go on and end.

What a rule finds must last for the rule's time before it is an alert, and be gone for as long (a minute at most) before that is over;
limits end at another value than they begin. So what comes and goes makes one alert and not a hundred.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Engine, insert, select
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from fleet.alerts.herald import Herald
from fleet.alerts.rules import RULES, Facts, Finding, facts
from fleet.duty import Duty
from fleet.link import Link
from fleet.store import queries
from fleet.store.database import writing
from fleet.store.spools import MOST_LOST
from fleet.store.tables import alerts, devices, records, rules

log = logging.getLogger(__name__)

GRACE_S = 90.0
"""After a connection to the broker begins, devices have so long to be heard before they count as offline."""
OVER_S = 60.0
LATELY_S = 3600.0
AT_ONCE = 500
HUB = "hub"
"""What alerts of the hub itself have for a device; no device has this name."""

Key = tuple[str, str, str]
"""Device, rule, stream."""


@dataclass(frozen=True)
class InForce:
    """A rule as it is set."""

    name: str
    enabled: bool
    limits: Mapping[str, float]
    for_s: float
    notify: Mapping[str, Any] | None


class Watch(Duty):
    """One thread, on one of several hubs."""

    def __init__(
        self,
        engine: Engine,
        link: Link,
        herald: Herald,
        period_s: float,
        certificates: Callable[[], Mapping[str, float]] = dict,
        grace_s: float = GRACE_S,
    ) -> None:
        """`certificates`: when those end that the hub itself needs."""
        super().__init__(engine, "alerts", period_s, self.look)
        self._link = link
        self._herald = herald
        self._certificates = certificates
        self._grace_s = grace_s
        self._connected_at: float | None = None
        self._facts: dict[str, tuple[float | None, Facts]] = {}
        self._begun: dict[Key, float] = {}
        self._gone: dict[Key, float] = {}

    def look(self, now: float) -> None:
        """One round; none while the hub's own clock is not believed."""
        if self._link.clock_trouble:
            self._connected_at = None
            return
        if not self._link.connected:
            self._connected_at = None
        elif self._connected_at is None:
            self._connected_at = now
        deaf = self._connected_at is None or now - self._connected_at < self._grace_s
        with self._engine.connect() as connection:
            in_force = rules_in_force(connection)
            firing = {_key(row): row.id for row in connection.execute(select(alerts).where(alerts.c.state == "firing"))}
            known = [*self._devices(connection, now), Facts(HUB, "online", seen_at=now, certificates=self._certificates())]
        self._settle(in_force, firing, self._found(in_force, firing, known, deaf), now)

    def _devices(self, connection: Connection, now: float) -> Iterator[Facts]:
        """What is known of every device; a sample is read once."""
        lost, missing = _lost(connection, now - LATELY_S), queries.missing_of(connection)
        columns = (devices.c.device, devices.c.seen_at, devices.c.telemetry_at, queries.presence(now).label("now"))
        rows = connection.execute(select(*columns)).all()
        changed = [row.device for row in rows if row.device not in self._facts or self._facts[row.device][0] != row.telemetry_at]
        samples: dict[str, Any] = {}
        for start in range(0, len(changed), 500):
            wanted = select(devices.c.device, devices.c.telemetry, devices.c.figures).where(
                devices.c.device.in_(changed[start : start + 500])
            )
            samples |= {row.device: row for row in connection.execute(wanted)}
        for row in rows:
            if row.device in samples:
                read = facts(row.device, "", None, samples[row.device].telemetry, samples[row.device].figures, 0)
                self._facts[row.device] = (row.telemetry_at, read)
            known = self._facts[row.device][1]
            yield replace(known, state=row.now, seen_at=row.seen_at, lost=lost.get(row.device, 0), missing=missing.get(row.device, 0))

    def _found(self, in_force: list[InForce], firing: Mapping[Key, int], known: list[Facts], deaf: bool) -> dict[Key, Finding | None]:
        """What is wrong now; None: it cannot be known now."""
        found: dict[Key, Finding | None] = {}
        firing_of: dict[tuple[str, str], list[Key]] = {}
        for key in firing:
            firing_of.setdefault(key[:2], []).append(key)
        for rule in in_force:
            shipped = RULES[rule.name]
            for one in known if rule.enabled else ():
                active = firing_of.get((one.device, rule.name), [])
                blind = shipped.sees and "vision" in one.down
                if blind or (shipped.online and one.state != "online") or (deaf and not shipped.online):
                    found |= dict.fromkeys(active)
                    continue
                for finding in shipped.check(one, rule.limits, [stream for _, _, stream in active].__contains__):
                    found[one.device, rule.name, finding.stream] = finding
        return found

    def _settle(self, in_force: list[InForce], firing: Mapping[Key, int], found: Mapping[Key, Finding | None], now: float) -> None:
        rule_of = {rule.name: rule for rule in in_force}
        self._begun = {key: self._begun.get(key, now) for key, finding in found.items() if finding and key not in firing}
        self._gone = {key: self._gone.get(key, now) for key in firing if key not in found}
        begin = [key for key, since in self._begun.items() if now - since >= rule_of[key[1]].for_s]
        end = [key for key, since in self._gone.items() if now - since >= _over_after(rule_of.get(key[1]))]
        if not begin and not end:
            return
        with writing(self._engine) as connection:
            for key in begin:
                finding = found[key]
                assert finding
                self._begin(connection, key, finding, self._herald.to_tell(rule_of[key[1]].notify, now))
            for key in end:
                self._herald.over(connection, firing[key], now)
        self._herald.wake()

    def _begin(self, connection: Connection, key: Key, finding: Finding, told: Mapping[str, Any]) -> None:
        """Write an alert. One that the database cannot take is told in the log only, and is no reason to lose the others."""
        device, rule, stream = key
        row = {"device": device, "rule": rule, "stream": stream, "state": "firing", "since": self._begun[key], "detail": finding.detail}
        try:
            with connection.begin_nested():
                connection.execute(insert(alerts).values({**row, **told}))
        except (OperationalError, InterfaceError):
            raise
        except SQLAlchemyError as error:
            log.error("this alert cannot be stored, and nobody is told of it: %s: %s: %s", device, rule, type(error).__name__)
        else:
            log.warning("alert: %s: %s%s: %s", device, rule, f" ({stream})" if stream else "", finding.detail)


def rules_in_force(connection: Connection) -> list[InForce]:
    """Every rule: as it is set, or else as it ships."""
    kept = {row.name: row for row in connection.execute(select(rules))}
    found = []
    for name, rule in RULES.items():
        row = kept.get(name)
        if row is None:
            found.append(InForce(name, True, rule.limits, rule.for_s, None))
        else:
            found.append(InForce(name, row.enabled, {**rule.limits, **(row.threshold or {})}, row.for_s, row.notify))
    return found


def _over_after(rule: InForce | None) -> float:
    return min(rule.for_s, OVER_S) if rule and rule.enabled else 0.0


def _key(row: Any) -> Key:
    return row.device, row.rule, row.stream


def _lost(connection: Connection, since: float) -> dict[str, int]:
    """Events that each device has declared as lost since then."""
    wanted = select(records.c.device, records.c.payload).where(records.c.lane == "loss", records.c.received_at >= since)
    found: dict[str, int] = {}
    for device, payload in connection.execute(wanted):
        loss = queries.loss_of(payload)
        if loss is not None and loss.lane != "telemetry":
            found[device] = found.get(device, 0) + min(loss.count, MOST_LOST)
    return found
