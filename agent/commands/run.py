"""`almena run`: the whole agent in the foreground."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent import logs
from agent import settings as settings_module
from agent.say import say
from agent.settings import Settings
from agent.sole import sole_agent
from agent.supervisor import Child, Supervisor

if TYPE_CHECKING:
    from agent.commands.watcher import Watcher

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


def run_agent(settings: Settings, config: Path, *, quiet: bool, also: tuple[Child, ...] = ()) -> None:
    """Blocks until SIGINT or SIGTERM. `settings` are those of the file `config`; the caller is the `sole_agent` of their state folder.

    `also`: further processes, which start last and stop first.
    """
    logs.setup("run")
    (settings.state_dir / "run" / "page.url").unlink(missing_ok=True)
    began = time.monotonic()
    watcher: Watcher | None = None

    def tick() -> None:
        """The first comes when the processes have been started, and loads meanwhile what it takes to watch them."""
        nonlocal watcher
        if watcher is None:
            from agent.commands.watcher import Watcher

            watcher = Watcher(settings, began, quiet=quiet)
        watcher.tick()

    Supervisor([*children(settings, config), *also], tick).run()
    if watcher is not None:
        watcher.close()
    say("almena: stopped")


def children(settings: Settings, config: Path) -> list[Child]:
    """The agent's processes in the order of their start: sinks first, sources last."""
    found = [Child("uplink", ["agent.uplink", str(config)]), Child("vision", ["agent.vision", str(config)])]
    if settings.dicom:
        found.append(Child("dicom", ["agent.dicom", str(config)]))
    if settings.mqtt and settings.mqtt.embedded_broker:
        found.insert(0, Child("broker", ["agent.broker", "--port", str(settings.mqtt.port)]))
    return found
