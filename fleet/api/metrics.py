"""Prometheus metrics and health of the hub. Devices are counted and not named: a fleet is too large for a label."""

from __future__ import annotations

import time
from collections.abc import Iterable

from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import JSONResponse, Response

from fleet.api.access import needs
from fleet.api.context import Context
from fleet.api.models import Health
from fleet.certificates import Certificates
from fleet.store import queries
from fleet.store.tables import alerts, commands, dead_letters, devices, events, pictures


class HubCollector(Collector):
    """What the store and the connection say now."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._certificates = Certificates(context.settings, lambda: context.link.certificate_ends)

    def collect(self) -> Iterable[Metric]:
        """Read anew for each scrape."""
        link = self._context.link
        yield GaugeMetricFamily("almena_hub_connected", "Whether the broker has accepted this hub.", float(link.connected))
        yield GaugeMetricFamily("almena_hub_storing", "Whether the store takes what comes.", float(not link.trouble))
        yield CounterMetricFamily("almena_hub_messages", "Messages that were stored or refused, since this hub has started.", link.stored)
        yield CounterMetricFamily("almena_hub_refused", "Messages that were refused, since this hub has started.", link.refused)
        refused = self._context.refusals.count
        yield CounterMetricFamily(
            "almena_hub_refused_pictures", "Pictures that the door did not take, since this hub has started.", refused
        )
        yield GaugeMetricFamily(
            "almena_hub_live_views", "Live pictures that this hub has asked for and that go on.", self._context.views.open_now
        )
        yield GaugeMetricFamily("almena_hub_clock_believed", "Whether this hub's own clock can be believed.", float(not link.clock_trouble))
        ends = GaugeMetricFamily("almena_hub_certificate_end_seconds", "When it ends, as Unix time.", labels=["certificate"])
        for name, at in self._certificates().items():
            ends.add_metric([name], at)
        yield ends
        with self._context.engine.connect() as connection:
            yield from _families(connection)


def _families(connection: Connection) -> Iterable[Metric]:
    about = queries.overview(connection, time.time())
    states = GaugeMetricFamily("almena_hub_devices", "Devices by how they are.", labels=["state"])
    for state in ("online", "stale", "offline", "stopped", ""):
        states.add_metric([state or "unknown"], about["states"].get(state, 0))
    yield states
    stored = connection.execute(select(func.coalesce(func.max(events.c.id), 0))).scalar_one()
    yield CounterMetricFamily("almena_hub_events", "Events that were stored.", stored)
    lost = connection.execute(select(func.coalesce(func.sum(devices.c.losses), 0))).scalar_one()
    yield CounterMetricFamily("almena_hub_lost_events", "Events that devices declared as lost.", float(lost))
    missing = sum(queries.missing_of(connection).values())
    yield GaugeMetricFamily("almena_hub_missing", "Numbers of rows that are neither stored nor declared as lost.", float(missing))
    refused = connection.execute(select(func.count()).select_from(dead_letters)).scalar_one()
    yield GaugeMetricFamily("almena_hub_dead_letters", "Messages that could not be stored, and are kept.", refused)
    held, size = connection.execute(select(func.count(), func.coalesce(func.sum(pictures.c.size), 0)).select_from(pictures)).one()
    yield GaugeMetricFamily("almena_hub_pictures", "Pictures that are kept.", held)
    yield GaugeMetricFamily("almena_hub_picture_bytes", "Their size.", float(size))
    firing = GaugeMetricFamily("almena_hub_alerts", "Alerts that fire, by rule.", labels=["rule"])
    for rule, count in connection.execute(select(alerts.c.rule, func.count()).where(alerts.c.state == "firing").group_by(alerts.c.rule)):
        firing.add_metric([rule], count)
    yield firing
    told = GaugeMetricFamily("almena_hub_commands", "Commands by what became of them.", labels=["state"])
    for state, count in connection.execute(select(commands.c.state, func.count()).group_by(commands.c.state)):
        told.add_metric([state], count)
    yield told


def probes_router(context: Context) -> APIRouter:
    """Routes outside the prefix."""
    router = APIRouter(tags=["probes"])
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HubCollector(context))
    declared = needs("viewer")
    declared["responses"] = {**declared["responses"], 200: {"content": {"text/plain": {}}}}

    @router.get("/metrics", response_class=Response, **declared)
    def metrics() -> Response:
        """For Prometheus, with an API key of a viewer."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @router.get("/healthz")
    def healthz() -> dict[str, bool]:
        """Whether the process answers."""
        return {"ok": True}

    @router.get("/readyz", response_model=Health, responses={503: {"model": Health}})
    def readyz() -> Response:
        """Whether events can be stored as they should: 503 while the broker is not there or refuses subscriptions, the store takes nothing,
        or this machine's clock cannot be believed; `trouble` says why."""
        link = context.link
        store = link.trouble
        try:
            with context.engine.connect() as connection:
                connection.execute(select(1))
        except SQLAlchemyError as error:
            store = store or str(getattr(error, "orig", None) or error)
        trouble = store or link.unheard or link.clock_trouble
        health = Health(
            ready=link.connected and not trouble,
            store=not store,
            broker=link.connected and not link.unheard,
            clock=not link.clock_trouble,
            trouble=trouble.partition("\n")[0][:200],
        )
        return JSONResponse(health.model_dump(), 200 if health.ready else 503)

    return router
