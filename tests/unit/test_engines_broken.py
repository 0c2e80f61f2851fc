"""Runtimes that are installed and cannot be loaded, and GPUs that are not there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from engines import available
from engines.backends.cuda import Gpu, gpus, l4t
from engines.card import card
from engines.errors import MissingRuntimeError
from engines.registry import resolve

pytestmark = pytest.mark.unit


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    (tmp_path / "half_a_runtime.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return {"half": "half_a_runtime:Backend"}


def test_a_runtime_that_cannot_be_loaded_is_told(broken: dict[str, str]) -> None:
    with pytest.raises(MissingRuntimeError, match=r"'half' cannot be loaded: libnvinfer\.so\.10.*doctor"):
        resolve(broken, "half", "backend")


def test_auto_leaves_it_aside(broken: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    whole = {"onnxruntime": "engines.backends.onnxruntime:OnnxRuntimeBackend"}
    monkeypatch.setattr(available, "BACKENDS", broken | whole)
    monkeypatch.setattr(available, "MODULES", {"half": "half_a_runtime", "onnxruntime": "onnxruntime"})
    with caplog.at_level(logging.WARNING):
        assert available.choose_backend(card("centerface"), "auto").name == "onnxruntime"
        assert [backend.name for backend in available.installed(card("centerface"))] == ["onnxruntime"]
    assert "libnvinfer" in caplog.text
    monkeypatch.setattr(available, "BACKENDS", broken)
    with pytest.raises(MissingRuntimeError, match="no runtime that reads it"):
        available.choose_backend(card("centerface"), "auto")


def test_gpus(tmp_path: Path) -> None:
    assert isinstance(gpus(), tuple)
    (tmp_path / "release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081\n")
    assert l4t(tmp_path / "release") == "36.4.3"
    assert l4t(tmp_path / "none") == ""
    assert str(Gpu("Orin", (8, 7), 12060, "36.4.3")) == "Orin, compute 8.7, driver of CUDA 12.6, L4T 36.4.3"
    assert str(Gpu("NVIDIA H100", (9, 0), 13000)) == "NVIDIA H100, compute 9.0, driver of CUDA 13.0"
