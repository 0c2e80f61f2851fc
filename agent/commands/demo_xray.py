"""`almena demo-xray`: radiographs in, answers out, with nothing to set up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent import settings
from agent.commands.needed import need
from agent.commands.run import run_agent
from agent.home import default_folder
from agent.sole import sole_agent
from agent.supervisor import Child

app = typer.Typer(add_completion=False)


@app.command()
def demo_xray(
    folder: Annotated[Path | None, typer.Option("--dir", help="Where everything is kept; default: ~/.local/share/almena/xray.")] = None,
    prepare_only: Annotated[bool, typer.Option("--prepare-only", help="Fetch everything, but do not start.")] = False,
) -> None:
    """Start the agent with DICOM and a small clinic: radiographs are sent, checked, analysed, and answered with report and heat map."""
    need(("cv2", "onnx", "amqtt", "pydicom", "pynetdicom", "highdicom"), "demo,dicom")
    from agent.xray_demo.prepare import prepare

    folder = (folder or default_folder() / "xray").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with sole_agent(folder / "state"):
        config = prepare(folder)
        if not prepare_only:
            clinic = Child("clinic", ["agent.xray_demo.clinic", str(config)])
            run_agent(settings.load(config), config, quiet=True, also=(clinic,))
