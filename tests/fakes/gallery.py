"""A gallery with made-up faces, also in another process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from agent.settings import GallerySettings
from agent.vision.gallery import Gallery, Picture
from agent.vision.recognition import OperatingPoint

POINT = OperatingPoint.of(verify=0.6, identify=0.55)
MODEL = "embedder@0123456789ab"
SETTINGS = GallerySettings()


def face(seed: int, near: int | None = None) -> np.ndarray:
    """A template of norm 1; with `near` one at distance 0.3 from that person's."""
    vector = np.random.default_rng(seed).normal(size=128)
    vector /= np.linalg.norm(vector)
    if near is not None:
        vector = face(near) + 0.3 * vector
    return vector.astype(np.float32)


def picture(seed: int, near: int | None = None) -> Picture:
    return Picture(b"JPEG of somebody " + bytes([seed]) * 64, face(seed, near))


def opened(folder: Path, model: str | None = MODEL, settings: GallerySettings = SETTINGS) -> Gallery:
    return Gallery.open(folder / "gallery", settings, model, POINT if model else None)


def elsewhere(folder: Path, action: str) -> None:
    """Run `action` on the gallery `g` in another process."""
    script = "import sys; from pathlib import Path; from tests.fakes.gallery import *\n"
    script += f"g = opened(Path(sys.argv[1])); {action}; g.close()"
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, cwd=Path(__file__).parents[2])
