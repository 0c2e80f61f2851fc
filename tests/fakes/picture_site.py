"""A hub with its door, and a device that may send pictures: real TLS, the hub's API and store, the agent's uplink and control socket."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import select, update

from agent.datatypes import Event
from agent.errors import AlmenaError
from agent.hub_settings import HubLinkSettings
from agent.outbox import Outbox
from agent.uplink.door import Door
from agent.uplink.hub_link import HubLink
from agent.uplink.status import UplinkStatus
from agent.uplink.vision_link import VisionLink
from agent.vision.control import ControlServer
from agent.vision.event_pictures import EventPictures
from fleet.hub import opened
from fleet.store.database import writing
from fleet.store.tables import audit, commands
from tests.fakes.door_site import DoorSite
from tests.fakes.hub_api import HubApi
from tests.fakes.small_vision import SmallVision, frame

DEVICE = "cam-1"


class PictureSite:
    """A hub with its door, and one device: a vision process in small, an outbox, and what the uplink has for the door."""

    def __init__(self, folder: Path, stops: ExitStack) -> None:
        fleet = DoorSite(folder / "fleet")
        self.fleet = fleet
        self.hub = HubApi(folder, door=fleet.settings())
        assert self.hub.settings.door is not None
        self.server = opened(self.hub.context, self.hub.settings.door)
        self.server.start()
        stops.callback(self.server.stop)
        stops.enter_context(self.hub)
        state = {"streams": {"door": ["faces"]}, "hub": {"pictures": True, "live": True}}
        self.hub.device(DEVICE, reported=json.dumps({"v": 1, "state": state, "errors": []}).encode())
        self.url = f"https://127.0.0.1:{self.server.port}"
        identity = fleet.device(DEVICE)
        self.door = Door(self.url, identity)
        hub = HubLinkSettings(url=self.url, pictures=True, live=True)
        vision = stops.enter_context(SmallVision(folder / "state"))
        settings = vision.settings.model_copy(update={"hub": hub})
        self.settings = settings
        self.outbox = Outbox.open(settings.outbox_dir, DEVICE, settings.outbox)
        stops.callback(self.outbox.close)
        self.pictures = vision.pictures = EventPictures(settings, self.outbox)
        self.pictures.start()
        stops.callback(self.pictures.stop)
        control = ControlServer(vision)
        control.start()
        stops.callback(control.stop)
        self.vision = VisionLink(settings.control_socket)
        self.status = UplinkStatus()
        self.link = HubLink(hub, identity, self.vision, self.outbox, self.status, settings.state_dir)
        self.operator = self.hub.client("operator")

    def sees(self, event: Event) -> dict[str, Any]:
        """An event of the pipeline; the envelope as the outbox has it."""
        numbers = self.outbox.append("event", [event])
        self.pictures.offer(frame(0), [event], numbers)
        return self.outbox.history(limit=1)[0]

    def stored(self, envelope: dict[str, Any]) -> str:
        """The hub has the event; the address of its picture."""
        _, spool, seq = envelope["id"].split("/")
        self.hub.event(DEVICE, int(seq), envelope["data"], spool=spool)
        return f"api/v1/events/{envelope['id']}/picture"

    @contextmanager
    def obeying(self) -> Iterator[None]:
        """The device does what the hub publishes as commands, and the hub gets its replies. The broker's part is tested elsewhere."""
        over = threading.Event()
        thread = threading.Thread(target=self._obey, args=(over,), daemon=True)
        with ExitStack() as stops:
            self.link.start(stops)
            thread.start()
            stops.callback(thread.join)
            stops.callback(over.set)
            yield

    def _obey(self, over: threading.Event) -> None:
        done = 0
        while not over.wait(0.02):
            for topic, payload, _ in self.hub.link.published[done:]:
                done += 1
                try:
                    said = {
                        "ok": True,
                        "code": "done",
                        "detail": "",
                        "result": self.link.handlers()[topic.rpartition("/")[2]](payload["args"]),
                    }
                except AlmenaError as error:
                    said = {"ok": False, "code": "failed", "detail": str(error), "result": None}
                with writing(self.hub.engine) as connection:
                    connection.execute(update(commands).where(commands.c.id == payload["id"]).values(state=said["code"], reply=said))

    def audited(self) -> list[str]:
        """Actions, the oldest first."""
        with self.hub.engine.connect() as connection:
            return list(connection.execute(select(audit.c.action).order_by(audit.c.id)).scalars())


def looked(client: httpx.Client, view: str, pictures: int) -> list[bytes]:
    """So many pictures of a live view, as a browser gets them."""
    found: list[bytes] = []
    data = b""
    with client.stream("GET", f"api/v1/live-pictures/{view}") as answer:
        assert answer.status_code == 200
        for part in answer.iter_raw():
            data += part
            while (head := re.search(rb"Content-Length: (\d+)\r\n\r\n", data)) and len(data) >= head.end() + int(head[1]):
                found.append(data[head.end() : head.end() + int(head[1])])
                data = data[head.end() + int(head[1]) :]
            if len(found) >= pictures:
                return found
    return found
