"""The device of `make hub` that is a whole agent, and sees the sample clip."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

import yaml

from agent.demo import enrol, sample_clip
from agent.errors import AlmenaError
from agent.home import free_port
from engines.base import EngineError

HEADER = "# Written by `make hub` at each start. Copy it and change the copy: almena run --config COPY\n"


def write_settings(folder: Path, demo: Path, name: str, port: int) -> Path:
    """The settings of the agent `name` at the broker's `port`, with its state in `folder`; models and clip are those of the demo."""
    content = {
        "device": {"name": name},
        "state_dir": str(folder / "state"),
        "engines": {"models_dir": str(demo / "models")},
        "streams": [
            {
                "name": "door",
                "source": {"type": "video", "path": str(demo / "sample.mp4"), "loop": True},
                "tasks": [{"type": "faces"}],
            }
        ],
        "mqtt": {"port": port, "version": "3.1.1", "delivery": "hub"},
        "web": {"port": free_port(8642)},
        "telemetry": {"period_s": 5.0},
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "almena.yaml"
    file.write_text(HEADER + yaml.safe_dump(content, sort_keys=False))
    return file


def prepare(folder: Path, demo: Path, settings: Path) -> None:
    """Models, clip, and one of the two persons enrolled; with progress on standard error. Raises AlmenaError, EngineError, OSError."""
    sample_clip(demo, demo / "models")
    enrolled = folder / "enrolled"
    if not enrolled.exists():
        enrol(settings, demo / "models")
        enrolled.touch()


def main() -> NoReturn:
    """Becomes the agent; or `almena simulate` with a scenario that stands in for it, where it cannot be made ready."""
    parser = argparse.ArgumentParser(prog="python -m agent.demo_camera", description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--port", type=int, required=True, help="the broker's")
    for option in ("--dir", "--demo", "--stand-in"):
        parser.add_argument(option, type=Path, required=True)
    given = parser.parse_args()
    settings = write_settings(given.dir, given.demo, given.name, given.port)
    command = ["run", "--config", str(settings), "--quiet"]
    try:
        prepare(given.dir, given.demo, settings)
    except (AlmenaError, EngineError, OSError, ImportError) as error:
        print(f"almena: {given.name} cannot be a whole agent here, and is simulated: {error}", file=sys.stderr, flush=True)
        command = ["simulate", str(given.stand_in)]
    os.execv(sys.executable, [sys.executable, "-m", "agent.cli", *command])


if __name__ == "__main__":
    main()
