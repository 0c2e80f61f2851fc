"""Alerts, and the rules behind them."""

from __future__ import annotations

import time
from datetime import timezone
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from sqlalchemy import insert, select, update
from starlette.responses import Response

from agent.clock import date_of
from agent.errors import UnknownError
from agent.serving import Problem
from fleet import journal, maintenance
from fleet.alerts.herald import require_ways
from fleet.alerts.rules import RULES, checked
from fleet.alerts.watch import rules_in_force
from fleet.api.access import Who, needs
from fleet.api.context import Context
from fleet.api.models_alerts import Alerts, ChangedRule, Rules
from fleet.parameters import Number
from fleet.store.database import writing
from fleet.store.tables import alerts, devices, rules


def alerts_router(context: Context) -> APIRouter:
    """Routes of alerts."""
    router = APIRouter(tags=["alerts"])

    @router.get("/alerts", response_model=Alerts, **needs("viewer"))
    def found(
        state: Literal["firing", "resolved"] | None = None,
        device: str | None = None,
        site: str | None = None,
        rule: str | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
        before: Annotated[int | None, Query(ge=1, lt=1 << 63)] = None,
    ) -> Any:
        """Alerts, newest first."""
        quiet = alerts.c.device.in_(maintenance.closed(time.time())).label("maintenance")
        wanted = select(alerts, quiet).order_by(alerts.c.id.desc()).limit(limit + 1)
        for column, value in ((alerts.c.state, state), (alerts.c.device, device), (alerts.c.rule, rule)):
            wanted = wanted if value is None else wanted.where(column == value)
        if site is not None:
            wanted = wanted.where(alerts.c.device.in_(select(devices.c.device).where(devices.c.site == site)))
        if before is not None:
            wanted = wanted.where(alerts.c.id < before)
        with context.engine.connect() as connection:
            rows = [dict(row._mapping) for row in connection.execute(wanted)]
        return {"alerts": rows[:limit], "next": str(rows[limit - 1]["id"]) if len(rows) > limit else None}

    @router.post("/alerts/{alert}/acknowledge", status_code=204, **needs("operator"))
    def acknowledge(alert: Number, caller: Who) -> Response:
        """Say that somebody sees to it, while it fires."""
        with writing(context.engine) as connection:
            row = connection.execute(select(alerts).where(alerts.c.id == alert)).first()
            if row is None:
                raise UnknownError(f"there is no alert {alert}")
            if row.state != "firing":
                raise Problem(409, "The alert is over", f"it ended at {date_of(row.until, timezone.utc):%Y-%m-%d %H:%M:%S} UTC by itself")
            if row.acknowledged_by == caller.name:
                return Response(status_code=204)
            connection.execute(update(alerts).where(alerts.c.id == alert).values(acknowledged_by=caller.name))
            journal.note(connection, caller.name, "alert acknowledge", row.device, {"id": alert, "rule": row.rule})
        return Response(status_code=204)

    return router


def rules_router(context: Context) -> APIRouter:
    """The rules by which alerts are found."""
    router = APIRouter(tags=["alerts"])

    @router.get("/rules", response_model=Rules, **needs("viewer"))
    def in_force() -> Any:
        """Every rule, as it is in force."""
        with context.engine.connect() as connection:
            known = rules_in_force(connection)
        return {
            "rules": [
                {"name": rule.name, "enabled": rule.enabled, "threshold": dict(rule.limits), "for_s": rule.for_s, "notify": rule.notify}
                for rule in known
            ]
        }

    @router.put("/rules/{name}", status_code=204, **needs("admin"))
    def change(name: str, given: ChangedRule, caller: Who) -> Response:
        """Set a rule: whether it is on, its limits, how long it must last, and whom it tells (null: all that there are)."""
        if name not in RULES:
            raise UnknownError(f"there is no rule {name}; there are {', '.join(RULES)}")
        require_ways(context.settings.alerts, given.notify)
        values = {"enabled": given.enabled, "threshold": checked(name, given.threshold), "for_s": given.for_s, "notify": given.notify}
        with writing(context.engine) as connection:
            if connection.execute(update(rules).where(rules.c.name == name).values(values)).rowcount == 0:
                connection.execute(insert(rules).values(name=name, **values))
            journal.note(connection, caller.name, "rule", name, values)
        return Response(status_code=204)

    return router
