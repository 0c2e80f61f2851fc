"""The same scenarios driven by MLCommons' own load generator, where it is installed (`pip install 'almena[loadgen]'`)."""

from __future__ import annotations

import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from calibration.scenarios import MULTI_STREAM_SAMPLES, Runner
from engines.errors import EngineError, MissingRuntimeError

RESULTS = {
    "SingleStream": r"90\.00 percentile latency \(ns\)\s*:\s*(\d+)",
    "MultiStream": r"99\.00 percentile latency \(ns\)\s*:\s*(\d+)",
    "Offline": r"Samples per second\s*:\s*([\d.]+)",
}
"""What each scenario counts, in LoadGen's summary."""
SAMPLES = 1024


def loadgen(what: Runner, per_second: float, seconds: float) -> dict[str, Any]:
    """The three scenarios' results in milliseconds and samples a second. `per_second`: the rate to expect, which sizes Offline's one query.

    Raises MissingRuntimeError where LoadGen is not installed, EngineError where a run failed or told no result.
    """
    if find_spec("mlperf_loadgen") is None:
        raise MissingRuntimeError("LoadGen is not installed: pip install 'almena[loadgen]' (there are builds for x86-64)")
    found = {scenario: _run(what, scenario, per_second, seconds) for scenario in RESULTS}
    return {
        "single_stream_p90_ms": found["SingleStream"] / 1e6,
        "multi_stream_p99_ms": found["MultiStream"] / 1e6,
        "offline_per_second": found["Offline"],
    }


def _run(what: Runner, scenario: str, per_second: float, seconds: float) -> float:
    import mlperf_loadgen as lg

    failures: list[BaseException] = []
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario)
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1e3 * seconds)
    settings.min_query_count = 1
    settings.offline_expected_qps = per_second
    settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = int(1e9 * what.batch / per_second)
    settings.multi_stream_samples_per_query = MULTI_STREAM_SAMPLES
    with ThreadPoolExecutor(what.parallel) as callers, tempfile.TemporaryDirectory(prefix="almena-loadgen-") as folder:

        def issue(samples: list[Any]) -> None:
            try:
                list(callers.map(lambda _: what.call(), range(-(-len(samples) // what.batch))))
            except BaseException as error:  # noqa: BLE001 - raised below, for LoadGen's own threads cannot carry it
                failures.append(error)
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples])

        logs = lg.LogSettings()
        logs.log_output.outdir = folder
        logs.log_output.copy_summary_to_stdout = False
        logs.enable_trace = False
        sut = lg.ConstructSUT(issue, lambda: None)
        library = lg.ConstructQSL(SAMPLES, SAMPLES, lambda _: None, lambda _: None)
        try:
            lg.StartTestWithLogSettings(sut, library, settings, logs)
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(sut)
        summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
    if failures:
        raise failures[0]
    result = re.search(RESULTS[scenario], summary)
    if result is None:
        raise EngineError(f"LoadGen told no result of {scenario}: {summary[:400]}")
    return float(result[1])
