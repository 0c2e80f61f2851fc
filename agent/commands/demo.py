"""`almena demo`: see it work, with nothing to set up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from agent import settings
from agent.commands.needed import need
from agent.commands.run import run_agent
from agent.demo import prepared, write_settings
from agent.home import default_folder
from agent.sole import sole_agent

app = typer.Typer(add_completion=False)


class SourceChoice(str, Enum):
    """Where the demo's frames come from."""

    auto = "auto"
    webcam = "webcam"
    clip = "clip"


@app.command()
def demo(
    folder: Annotated[
        Path | None, typer.Option("--dir", file_okay=False, help="Where models and state are kept; default: ~/.local/share/almena.")
    ] = None,
    source: Annotated[SourceChoice, typer.Option(help="`auto` takes the webcam if there is one, else a sample clip.")] = SourceChoice.auto,
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Fetch and build everything, but do not start.")] = False,
) -> None:
    """Fetch the default models, start a broker, a camera or sample clip and the local page, and print events as they happen."""
    need(("cv2", "onnx", "amqtt"), "demo")
    folder = (folder or default_folder()).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with sole_agent(folder / "state"):
        if prepared(folder):
            write_settings(folder, source.value)
        else:
            run_apart([sys.executable, "-m", "agent.demo", str(folder), source.value])
        if not prepare_only:
            config = folder / "demo.yaml"
            run_agent(settings.load(config), config, quiet=False)


def run_apart(command: list[str]) -> None:
    """In a process that ends afterwards, so that the one that stays holds no engines. Ctrl-C or SIGTERM ends it, with all that it has
    started, before it can fill the screen with where it was. Raises typer.Exit where it fails."""
    child = subprocess.Popen(command, start_new_session=True)
    try:
        code = child.wait()
    except (KeyboardInterrupt, SystemExit):
        os.killpg(child.pid, signal.SIGTERM)
        child.wait()
        raise
    if code:
        raise typer.Exit(code)
