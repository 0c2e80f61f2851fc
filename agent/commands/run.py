"""`almena run`: the whole agent in the foreground."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from agent import logs
from agent import settings as settings_module
from agent.commands.events import PAGE
from agent.envelopes import number
from agent.outbox import Outbox
from agent.sentences import sentence
from agent.settings import Settings
from agent.sole import sole_agent
from agent.supervisor import Child, Supervisor
from agent.uplink.vision_link import VisionError, VisionLink

app = typer.Typer(add_completion=False)


@app.command()
def run(
    config: Annotated[Path, typer.Option("--config", "-c", help="The settings file.")] = Path("almena.yaml"),
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not print events.")] = False,
) -> None:
    """Run the agent's processes, start each again when it ends, and print events as they happen. Ctrl-C ends it."""
    settings = settings_module.load(config)
    with sole_agent(settings.state_dir):
        run_agent(settings, config, quiet=quiet)


def run_agent(settings: Settings, config: Path, *, quiet: bool) -> None:
    """Blocks until SIGINT or SIGTERM. `settings` are those of the file `config`; the caller is the `sole_agent` of their state folder."""
    logs.setup("run")
    (settings.state_dir / "run" / "page.url").unlink(missing_ok=True)
    watcher = Watcher(settings, quiet=quiet)
    Supervisor(children(settings, config), watcher.tick).run()
    watcher.close()
    print("almena: stopped")


def children(settings: Settings, config: Path) -> list[Child]:
    """The agent's processes in the order of their start: sinks first, sources last."""
    found = [Child("uplink", ["agent.uplink", str(config)]), Child("vision", ["agent.vision", str(config)])]
    if settings.dicom:
        found.append(Child("dicom", ["agent.dicom", str(config)]))
    if settings.mqtt and settings.mqtt.embedded_broker:
        found.insert(0, Child("broker", ["agent.broker", "--port", str(settings.mqtt.port)]))
    return found


class Watcher:
    """Says when the agent is ready and where its page is, and prints events from the outbox."""

    def __init__(self, settings: Settings, *, quiet: bool) -> None:
        self._settings = settings
        self._quiet = quiet
        self._outbox = Outbox.open(settings.outbox_dir, settings.device.name, settings.outbox)
        self._seq: int = self._outbox.stats()["event"]["seq"]
        self._started = time.monotonic()
        self._ready = False

    def tick(self) -> None:
        """Called a few times a second."""
        if not self._ready and (streams := self._streams()):
            self._ready = True
            took = time.monotonic() - self._started
            print(f"almena: ready after {took:.1f} s: {streams}", flush=True)
            print(f"almena: {self._where()}; Ctrl-C ends it", flush=True)
        if not self._quiet and self._outbox.wait(0.0):
            for envelope in self._outbox.history(after_seq=self._seq, limit=PAGE):
                print(sentence(envelope), flush=True)
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
