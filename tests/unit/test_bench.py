"""The bench's honesty: the yardstick runs as ordered, and failed frames are no work done."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agent.commands.bench import StreamBench
from agent.errors import AlmenaError
from agent.serving import ThreadedServer
from calibration.bare import imported
from calibration.engine_bench import overhead
from engines.backends.base import Build
from engines.backends.openvino import OpenVinoBackend, precision
from engines.card import ModelInput
from tests.waiting import wait_until

pytestmark = pytest.mark.unit

FEED = ModelInput(layout="NCHW", colour="BGR", sizes=((32, 32),), resize="letterbox")


def small(path: Path) -> Path:
    """A convolution."""
    weights = numpy_helper.from_array(np.random.default_rng(1).normal(0, 1, (8, 3, 3, 3)).astype(np.float32), "w")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None, "H", "W"]) for name in ("x", "y")]
    values[0].type.tensor_type.shape.dim[1].dim_value = 3
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "small", values[:1], values[1:], [weights])
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    return path


@pytest.mark.parametrize("wish", sorted(set(OpenVinoBackend().precisions("cpu")) - {"int8"}))
def test_the_yardstick_computes_in_the_precision_and_with_the_threads_ordered(tmp_path: Path, wish: str) -> None:
    order = Build("small", small(tmp_path / "small.onnx"), FEED, 1, 32, 32, wish, "throughput", 1)
    OpenVinoBackend().build(order, tmp_path / "small.blob")
    compiled = imported(order, tmp_path / "small.blob")
    assert precision(compiled) == wish
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


class Report:
    """What a vision process answers."""

    def __init__(self, failed: int) -> None:
        self.failed = failed

    def streams(self, _request: Request) -> JSONResponse:
        return JSONResponse([{"state": "finished", "code": "", "detail": "", "captured": 10}])

    def metrics(self, _request: Request) -> JSONResponse:
        return JSONResponse({"bench": {"frames_total": 10, "frames_failed_total": self.failed}})

    def engines(self, _request: Request) -> JSONResponse:
        return JSONResponse([{"model": "centerface@0"}])


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
        yield running


def finished(folder: Path, failed: int, process: subprocess.Popen[bytes]) -> dict[str, Any]:
    (folder / "clip.mp4").touch()
    bench = StreamBench(folder / "clip.mp4", folder, folder / "models", folder / "engines", "auto", "auto")
    (folder / "state" / "run").mkdir()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(folder / "state" / "run" / "vision.sock"))
    report = Report(failed)
    routes = [Route(f"/{name}", getattr(report, name)) for name in ("streams", "metrics", "engines")]
    server = ThreadedServer(Starlette(routes=routes), listener, "report")
    server.start()
    try:
        return bench._until_finished([process])
    finally:
        server.stop()


def test_a_run_without_failures_counts(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    assert finished(tmp_path, 0, process)["frames_total"] == 10


def test_failed_frames_are_not_counted_as_work_done(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    with pytest.raises(AlmenaError, match="3 frames failed"):
        finished(tmp_path, 3, process)


BEGUN = """
import sys, tempfile
from pathlib import Path
from agent import cli
from agent.commands.bench import StreamBench

def app():
    with tempfile.TemporaryDirectory(prefix="almena-bench-") as scratch:
        StreamBench(Path(__file__), *[Path(scratch)] * 3, "auto", "auto")._pipeline()

cli.app = app
cli.main()
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_bench_that_is_ended_leaves_no_process_behind(tmp_path: Path, how: signal.Signals) -> None:
    script = tmp_path / "begun.py"
    script.write_text(BEGUN)
    bench = subprocess.Popen([sys.executable, script], env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.getcwd()})
    try:
        begun = psutil.Process(bench.pid).children
        wait_until(lambda: sum("agent." in " ".join(one.cmdline()) for one in begun()) == 2, 30, "both processes")
        children = begun()
    finally:
        bench.send_signal(how)
    assert bench.wait(30) == (-how if how == signal.SIGKILL else 128 + how)
    assert psutil.wait_procs(children, 30)[1] == []
    assert how == signal.SIGKILL or not list(tmp_path.glob("almena-bench-*"))


@pytest.mark.parametrize(
    ("call_ms", "per_second", "within"),
    [(2.09, 480.0, True), (2.0, 450.0, False), (2.2, 500.0, False), (0.14, 450.0, False), (0.14, 490.0, True)],
    ids=["both", "slow together", "slow alone", "fast alone and slow together", "in microseconds"],
)
def test_a_call_costs_little_alone_and_together_or_it_is_beyond_the_goal(call_ms: float, per_second: float, within: bool) -> None:
    bare_ms = 2.0 if call_ms > 1 else 0.1
    found = overhead([(call_ms, bare_ms)] * 3, [(per_second, 500.0)] * 3, 1)
    assert found["within_goal"] is within
    assert found["throughput"]["microseconds"] == pytest.approx(1e6 / per_second - 2000)
