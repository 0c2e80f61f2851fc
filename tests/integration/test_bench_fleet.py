"""`almena bench fleet`: that it measures, not how much."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def test_figures_of_a_short_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agent.cli", "bench", "fleet", "--store", f"sqlite:///{tmp_path / 'hub.sqlite'}", "--json"]
    short = ["--events", "1000", "--repeats", "1", "--pace", "200", "--seconds", "1"]
    result = json.loads(subprocess.run([*command, *short], stdout=subprocess.PIPE, check=True, timeout=200).stdout)
    assert result["lost"] == 0
    assert result["ratio"] == pytest.approx(result["stored_per_second"] / result["bare_subscriber_per_second"], rel=0.02)
    assert 0 < result["latency_p50_ms"] <= result["latency_p95_ms"] <= result["latency_p99_ms"]
