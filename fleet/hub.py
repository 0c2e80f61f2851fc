"""The hub's process: ingest, console and API, alerts."""

from __future__ import annotations

import os
import threading

from agent.errors import AlmenaError
from agent.notify import notify
from agent.signals import at_stop
from fleet.accounts import Accounts
from fleet.alerts.herald import Herald
from fleet.alerts.watch import Watch
from fleet.api.app import web_server
from fleet.api.context import Context
from fleet.certificates import Certificates
from fleet.courier import Courier
from fleet.door.live import live_door
from fleet.door.pictures import pictures_router
from fleet.door.server import DoorServer
from fleet.identities.keeper import Keeper
from fleet.identities.routes_door import sharing_router
from fleet.ingest import Ingest
from fleet.settings import DoorSettings, HubSettings
from fleet.store import Store
from fleet.store.care import Care
from fleet.store.erased_list import ErasedList
from fleet.store.sole import sole_hub

LOOKS_EVERY_S = 1.0
ENDS_WITHIN_S = 10.0


class Hub:
    """All parts, started and stopped together. Raises AlmenaError where the database, the address or a certificate cannot be used."""

    def __init__(self, settings: HubSettings) -> None:
        kept = ErasedList(settings.erased_list)
        self._store = Store(settings.store, kept)
        engine = self._store.engine
        self.ingest = Ingest(self._store, settings.broker, Care(engine, settings.retention).round)
        self._thread = threading.Thread(target=self.ingest.run, name="ingest", daemon=True)
        herald = Herald(engine, settings.alerts)
        courier = Courier(engine, self.ingest)
        certificates = Certificates(settings, lambda: self.ingest.certificate_ends)
        watch = Watch(engine, self.ingest, herald, settings.alerts.period_s, certificates)
        self._duties = (courier, herald, watch, Keeper(engine, kept))
        context = Context(settings, engine, self.ingest, Accounts(engine), courier)
        self.door = opened(context, settings.door) if settings.door else None
        self._web = web_server(context)

    @property
    def url(self) -> str:
        """Where the console is."""
        return self._web.url

    @property
    def dead(self) -> str:
        """The name of a part that has ended by itself; empty while all run."""
        parts = {
            "ingest": self._thread.is_alive(),
            "web": self._web.alive,
            "door": self.door is None or self.door.alive,
            **{type(duty).__name__.lower(): duty.alive for duty in self._duties},
        }
        return next((name for name, alive in parts.items() if not alive), "")

    def start(self) -> None:
        """Begin."""
        self._thread.start()
        for duty in self._duties:
            duty.start()
        self._web.start()
        if self.door:
            self.door.start()

    def stop(self) -> None:
        """End: nobody is answered any more, then the batch in hand is stored, then the connections close."""
        self._web.stop()
        if self.door:
            self.door.stop()
        for duty in self._duties:
            duty.stop()
        self.ingest.stop()
        self._thread.join(ENDS_WITHIN_S)
        self._store.close()


def opened(context: Context, settings: DoorSettings) -> DoorServer:
    """The door, with everything that devices come for. Raises AlmenaError."""
    engine = context.engine
    return DoorServer(
        settings,
        lambda stopping: (
            pictures_router(engine, context.refusals),
            live_door(context.views, stopping),
            sharing_router(engine, settings.client_ca),
        ),
    )


def run(settings: HubSettings) -> int:
    """Serve until SIGTERM or SIGINT: 0. Raises AlmenaError if a part cannot start, or ends by itself: a supervisor starts the hub again."""
    os.umask(0o077)
    stopping = threading.Event()
    at_stop(stopping.set)
    with sole_hub(settings.store):
        hub = Hub(settings)
        hub.start()
        notify("READY=1")
        try:
            while not stopping.wait(LOOKS_EVERY_S):
                if dead := hub.dead:
                    raise AlmenaError(f"the hub's part {dead} has ended; its log says why")
                notify("WATCHDOG=1")
        finally:
            notify("STOPPING=1")
            hub.stop()
    return 0
