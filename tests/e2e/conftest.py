"""A headless browser and a short clip for the whole suite."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from agent import sample_clip
from agent.sample_clip import Walk

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage", "--disable-component-update"]

SCRIPT = (
    Walk("known", (0.2, 1.4, 3, 4.2), (-0.25, 0.4, 0.45, -0.25), (0.75, 0.8, 1.0, 0.8), (1.0, 1.0, 1.0, 1.0)),
    Walk("unknown", (3.8, 5, 6.8, 8), (1.25, 0.6, 0.5, 1.25), (0.7, 0.8, 1.0, 0.7), (0.8, 0.8, 0.8, 0.8)),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    expect.set_options(timeout=30_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def short_clip(cache_dir: Path, portraits: dict[str, Path]) -> Path:
    """Eight seconds at 25 frames a second: the known person comes and goes, and then the unknown one. Composed once."""
    version = sha256(Path(sample_clip.__file__).read_bytes() + repr(SCRIPT).encode()).hexdigest()[:12]
    clip = cache_dir / f"clip-{version}.mp4"
    if not clip.exists():
        for _ in sample_clip.compose(portraits["astronaut"], portraits["grace-hopper"], clip, SCRIPT):
            pass
    return clip
