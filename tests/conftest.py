"""Fixtures that several suites share."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from engines.card import card
from engines.fetch import ensure, ensure_asset
from tests.waiting import alone

settings.register_profile("here", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

PORTRAITS = ("astronaut", "grace-hopper")


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As pytest's own, with a shorter name: the path of a Unix socket holds 107 bytes, and $TMPDIR may be long."""
    return tmp_path_factory.mktemp(re.sub(r"\W", "_", request.node.name.removeprefix("test_"))[:8])


@pytest.fixture(autouse=True)
def _no_handler_stays() -> Iterator[None]:
    """Commands that run inside a test set up logging to a stream that ends with the test."""
    before = set(logging.root.handlers)
    yield
    for handler in set(logging.root.handlers) - before:
        if type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def _speeds_are_measured_in_short() -> Iterator[None]:
    """Each engine that is built is measured, and no test here needs a figure that holds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engines.store.MEASURE_S", 0.05)
        yield


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    """What tests may keep from one run to the next: $ALMENA_TEST_CACHE, or ~/.cache/almena-tests."""
    return Path(os.environ.get("ALMENA_TEST_CACHE") or Path.home() / ".cache" / "almena-tests")


@pytest.fixture(scope="session")
def models_dir(cache_dir: Path) -> Path:
    """A folder with the default face models and the two portraits, fetched once and hash-checked in every session."""
    directory = cache_dir / "models"
    with alone(cache_dir):
        for name in ("centerface", "dlib-resnet"):
            ensure(card(name), directory)
        for name in PORTRAITS:
            ensure_asset(name, directory)
    return directory


@pytest.fixture(scope="session")
def engines_dir(cache_dir: Path) -> Path:
    """Engines built by earlier sessions on this machine; stale ones are rebuilt."""
    return cache_dir / "engines"


@pytest.fixture(scope="session")
def portraits(models_dir: Path) -> dict[str, Path]:
    """The two public-domain portraits by asset name: `astronaut` and `grace-hopper`, one face each."""
    return {name: ensure_asset(name, models_dir) for name in PORTRAITS}


@pytest.fixture(scope="session")
def small_models(cache_dir: Path) -> Path:
    """A folder with what tests/fakes/tensorflow_models.py makes, and the weights of its convolution. Made once; nobody writes to it."""
    script = Path(__file__).parent / "fakes" / "tensorflow_models.py"
    made_by = script.read_bytes() + "".join(map(version, ("tensorflow-cpu", "keras", "numpy"))).encode()
    folder = cache_dir / f"small-models-{sha256(made_by).hexdigest()[:12]}"
    with alone(cache_dir):
        if not folder.exists():
            half = Path(tempfile.mkdtemp(dir=cache_dir, prefix="half-"))
            np.save(half / "weights.npy", np.random.default_rng(5).normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32))
            made = subprocess.run([sys.executable, script, half], capture_output=True, text=True, timeout=150, check=False)
            assert made.returncode == 0, made.stderr[-2000:]
            half.rename(folder)
    return folder
