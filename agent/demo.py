"""What `almena demo` needs: models, a sample clip or a webcam, one enrolled identity, and a settings file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from agent.cameras import video_devices
from agent.errors import AlmenaError
from agent.home import free_port

MODELS = ("centerface", "dlib-resnet")
KNOWN = ("Eileen Collins", "astronaut")
UNKNOWN = "grace-hopper"
HEADER = "# Written by `almena demo` at each start. Copy it and change the copy: almena run --config COPY\n"


def fetch_models(models: Path) -> list[Path]:
    """The default models, and the two portraits (known, unknown), in the folder `models`; fetched if they are not there.

    Says so on stderr. Returns the portraits' paths. Raises EngineError.
    """
    from agent.commands.models import progress_bars
    from engines.card import card
    from engines.fetch import assets, ensure, ensure_asset

    portraits = {name: models / assets()[name].filename for name in (KNOWN[1], UNKNOWN)}
    if not all(path.exists() for path in (*portraits.values(), *(models / card(name).filename for name in MODELS))):
        print("Fetching models and portraits (once, about 120 MB; each is checked against its SHA-256):", file=sys.stderr)
        with progress_bars() as progress:
            for name in MODELS:
                ensure(card(name), models, progress)
            for name in portraits:
                ensure_asset(name, models, progress)
    return list(portraits.values())


def sample_clip(folder: Path, models: Path) -> Path:
    """The sample clip in `folder`, composed if it is not there. Raises EngineError, OSError."""
    portraits = fetch_models(models)
    clip = folder / "sample.mp4"
    if not clip.exists():
        from rich.console import Console
        from rich.progress import track

        from agent.sample_clip import FRAMES, compose

        folder.mkdir(parents=True, exist_ok=True)
        frames = compose(portraits[0], portraits[1], clip)
        for _ in track(frames, "Composing the sample clip", FRAMES, console=Console(stderr=True)):
            pass
    return clip


def prepared(folder: Path) -> bool:
    """Whether `prepare` has nothing left to do there."""
    return _enrolled(folder).exists() and (folder / "sample.mp4").exists()


def prepare(folder: Path, source: str) -> None:
    """Models, sample clip, settings, and one of the two persons enrolled. Raises AlmenaError, EngineError, OSError."""
    settings = write_settings(folder, source)
    sample_clip(folder, folder / "models")
    if not _enrolled(folder).exists():
        enrol(settings, folder / "models")
        _enrolled(folder).touch()


def write_settings(folder: Path, source: str) -> Path:
    """The settings file of a start. `source` is auto, webcam or clip. Raises AlmenaError where there is no such source."""
    camera = _webcam() if source in ("auto", "webcam") else None
    if source == "webcam" and camera is None:
        raise AlmenaError("no webcam can be opened: is one connected, and are you in the group `video`? `almena doctor` tells more")
    clip = {"type": "video", "path": str(folder / "sample.mp4"), "loop": True}
    frames: dict[str, Any] = {"type": "v4l2", "device": camera} if camera else clip
    content = {
        "device": {"name": "demo"},
        "state_dir": str(folder / "state"),
        "engines": {"models_dir": str(folder / "models")},
        "streams": [{"name": "webcam" if camera else "sample", "source": frames, "tasks": [{"type": "faces"}]}],
        "mqtt": {"embedded_broker": True, "port": free_port(1883), "delivery": "broker"},
        "web": {"port": free_port(8642)},
    }
    settings = folder / "demo.yaml"
    settings.write_text(HEADER + yaml.safe_dump(content, sort_keys=False))
    return settings


def enrol(settings: Path, models: Path) -> None:
    """Enrol one of the two persons of the sample clip. Raises AlmenaError.

    In a process of its own, because the supervisor need not hold engines in memory.
    """
    from engines.fetch import assets

    print("Building the engines for this machine and enrolling one of the two persons (once) …", flush=True)
    picture = models / assets()[KNOWN[1]].filename
    command = ["identity", "add", KNOWN[0], str(picture), "--config", str(settings), "--consent", "public-domain portrait (NASA)"]
    done = subprocess.run([sys.executable, "-m", "agent.cli", *command], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise AlmenaError(f"{KNOWN[0]} could not be enrolled; the reason is above")


def _enrolled(folder: Path) -> Path:
    """Marks that the demo's identity was enrolled, so that one that was erased stays erased."""
    return folder / "state" / "enrolled"


def _webcam() -> str | None:
    """The first camera that gives a picture."""
    devices = video_devices()
    if not devices:
        return None
    from agent.errors import SourceError
    from agent.vision.sources.v4l2 import V4l2Config, V4l2Source

    for device in devices:
        source = V4l2Source(V4l2Config(device=str(device)), "webcam")
        try:
            source.open()
            source.read()
        except SourceError:
            continue
        finally:
            source.close()
        return str(device)
    return None


def main() -> int:
    """`python -m agent.demo FOLDER SOURCE`: prepare, in a process that ends afterwards."""
    from engines.base import EngineError

    try:
        prepare(Path(sys.argv[1]), sys.argv[2])
    except (AlmenaError, EngineError, OSError) as error:
        print(f"almena: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
