"""What a build takes, against what is free."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from engines.errors import EngineError
from engines.registry import BACKENDS, CONVERTERS
from engines.room import BUILDING, CONVERTING, available_memory, require_disk, require_room

pytestmark = pytest.mark.unit

SMALL = (1, 8, 8, 3)


@pytest.fixture
def free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A control group with 1 GB left."""
    monkeypatch.setattr("engines.room.CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1500000000\n")
    (tmp_path / "memory.current").write_text("500000000\n")
    return tmp_path


def test_every_step_has_a_factor() -> None:
    assert CONVERTING.keys() == CONVERTERS.keys()
    assert BUILDING.keys() == BACKENDS.keys()


def test_the_control_group_limits_what_is_free(free: Path) -> None:
    assert available_memory() == 1_000_000_000
    (free / "memory.max").write_text("max\n")
    assert available_memory() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_the_largest_step_counts_and_sizes_grow_on_the_way(free: Path) -> None:
    for backend in ("litert", "registered-by-others"):
        require_room("m", 30_000_000, ("savedmodel-from-keras-1",), backend, SMALL, free, free)
    with pytest.raises(EngineError, match=r"m: .*takes about 1340 MB of memory, and 1000 MB are free"):
        require_room("m", 30_000_000, ("savedmodel-from-keras-1", "onnx-from-savedmodel-1"), "onnxruntime", SMALL, free, free)


def test_the_input_counts(free: Path) -> None:
    require_room("m", 1000, (), "onnxruntime", (11, 2000, 2500, 3), free, free)
    with pytest.raises(
        EngineError, match=r"m: .*about 1075 MB.*its input alone \(2500x2000, batch 13\) takes 975 MB.*smaller shape or batch"
    ):
        require_room("m", 1000, (), "onnxruntime", (13, 2000, 2500, 3), free, free)


def test_a_folder_that_is_not_there_yet_is_on_the_disk_of_its_parents(tmp_path: Path) -> None:
    require_disk("m", 1, tmp_path / "a" / "b")
    with pytest.raises(EngineError, match=r"m: .*b needs \d+ MB more, and \d+ MB are free"):
        require_disk("m", 10**16, tmp_path / "a" / "b")
