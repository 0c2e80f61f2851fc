"""What `almena run` prints."""

from __future__ import annotations

import time

from agent.commands.events import PAGE
from agent.envelopes import number
from agent.outbox import Outbox
from agent.say import say
from agent.sentences import sentence
from agent.settings import Settings
from agent.uplink.vision_link import VisionError, VisionLink


class Watcher:
    """Says when the agent is ready and where its page is, and prints events from the outbox. `began`: monotonic time of its start."""

    def __init__(self, settings: Settings, began: float, *, quiet: bool) -> None:
        self._settings = settings
        self._quiet = quiet
        self._outbox = Outbox.open(settings.outbox_dir, settings.device.name, settings.outbox)
        self._seq: int = self._outbox.stats()["event"]["seq"]
        self._began = began
        self._ready = False

    def tick(self) -> None:
        """Called a few times a second."""
        if not self._ready and (streams := self._streams()):
            self._ready = True
            took = time.monotonic() - self._began
            say(f"almena: ready after {took:.1f} s: {streams}")
            say(f"almena: {self._where()}; Ctrl-C ends it")
        if not self._quiet and self._outbox.wait(0.0):
            for envelope in self._outbox.history(after_seq=self._seq, limit=PAGE):
                say(sentence(envelope))
                self._seq = number(envelope["id"])

    def close(self) -> None:
        """Print what came last."""
        self.tick()
        self._outbox.close()

    def _streams(self) -> str:
        """What runs, once both processes answer."""
        try:
            streams = VisionLink(self._settings.control_socket).get("/streams")
        except VisionError:
            return ""
        if any(stream["state"] == "connecting" for stream in streams) or not (self._page() or not self._settings.web.enabled):
            return ""
        return ", ".join(f"{stream['stream']} is {stream['state']}" for stream in streams) or "no streams in the settings"

    def _page(self) -> str:
        """The page's address, which the uplink writes down once it serves it."""
        try:
            return (self._settings.state_dir / "run" / "page.url").read_text().strip()
        except FileNotFoundError:
            return ""

    def _where(self) -> str:
        return f"the page is at {self._page()}" if self._settings.web.enabled else "the page is switched off"
