"""How trtexec is called and read. Its output is as versions 8.5 and 10 print it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.backends import trtexec
from engines.backends.base import Build
from engines.base import EngineError
from engines.card import ModelInput

pytestmark = pytest.mark.unit

FEED = ModelInput(layout="NCHW", colour="BGR", sizes=((8, 6),), resize="letterbox")
OLD = """
[08/11/2022-06:55:33] [I] === Performance summary ===
[08/11/2022-06:55:33] [I] Throughput: 2.54521e+03 qps
[08/11/2022-06:55:33] [I] End-to-End Host Latency: min = 2.1 ms, max = 2.6 ms, mean = 2.1 ms, median = 2.0 ms, percentile(99%) = 2.6 ms
[08/11/2022-06:55:33] [I] Latency: min = 4.51123 ms, max = 5.53139 ms, mean = 4.54566 ms, median = 4.52756 ms, percentile(99%) = 5.51622 ms
[08/11/2022-06:55:33] [I] H2D Latency: min = 0.260254 ms, max = 0.287344 ms, mean = 0.26 ms, median = 0.263 ms, percentile(99%) = 0.272 ms
[08/11/2022-06:55:33] [I] GPU Compute Time: min = 4.2 ms, max = 5.2 ms, mean = 4.26986 ms, median = 4.25195 ms, percentile(99%) = 5.24138 ms
[08/11/2022-06:55:33] [I] Total GPU Compute Time: 3.00598 s
"""
NEW = """
[I] Throughput: 147.20 qps
[I] Latency: min = 6.12 ms, max = 8.45 ms, mean = 6.79 ms, median = 6.75 ms, percentile(90%) = 7.02 ms, percentile(99%) = 7.35 ms
[I] GPU Compute Time: min = 5.95 ms, max = 8.10 ms, mean = 6.55 ms, median = 6.50 ms, percentile(90%) = 6.9 ms, percentile(99%) = 7.11 ms
"""


def order(**changes: object) -> Build:
    values: dict[str, object] = {"precision": "fp16", "policy": "latency", "unit": "gpu", **changes}
    return Build("small", Path("small.onnx"), FEED, 4, 8, 6, **values)  # type: ignore[arg-type]


def test_figures_of_both_formats() -> None:
    assert trtexec.figures(OLD) == trtexec.Figures(2545.21, 4.52756, 5.51622, 4.25195, 5.24138)
    assert trtexec.figures(NEW) == trtexec.Figures(147.2, 6.75, 7.35, 6.5, 7.11)
    with pytest.raises(ValueError, match="no performance summary"):
        trtexec.figures("[E] Error[1]: no device")
    with pytest.raises(ValueError, match="no line for GPU Compute Time"):
        trtexec.figures(NEW.rpartition("[I] GPU")[0])


def test_the_same_build_as_ours() -> None:
    def words(weakly_typed: bool, **changes: object) -> list[str]:
        return trtexec.command(Path("trtexec"), order(**changes), Path("m.onnx"), weakly_typed)[1:]

    common = ["--onnx=m.onnx", "--infStreams=1", "--percentile=99", "--useCudaGraph"]
    assert words(True) == [*common, "--fp16"]
    assert words(False) == [*common, "--stronglyTyped"]
    assert words(True, precision="fp32") == [*common, "--noTF32"]
    assert words(False, precision="fp32") == common
    assert words(True, unit="dla1")[4:] == ["--fp16", "--useDLACore=1", "--allowGPUFallback"]
    shapes = ["--minShapes=image:1x6x8x3", "--optShapes=image:4x6x8x3", "--maxShapes=image:4x6x8x3"]
    assert words(True, least=1, streams=2)[4:] == ["--fp16", *shapes]


def test_a_program_that_measures_and_one_that_fails(tmp_path: Path) -> None:
    program = tmp_path / "trtexec"
    program.write_text(f"#!/bin/sh\ntest -s ${{1#--onnx=}} || exit 3\ncat <<'END'\n{NEW}\nEND\n")
    program.chmod(0o755)
    assert trtexec.measure(program, order(), b"a model", True).calls_per_second == 147.2
    program.write_text("#!/bin/sh\necho '[E] Error[1]: out of memory'\nexit 1\n")
    with pytest.raises(EngineError, match=r"small: trtexec gives no figures: \[E\] Error\[1\]: out of memory"):
        trtexec.measure(program, order(), b"a model", True)
    with pytest.raises(EngineError, match="small: trtexec gives no figures"):
        trtexec.measure(tmp_path / "none", order(), b"a model", True)
