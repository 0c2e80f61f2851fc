"""The machine's clock."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit


def test_a_kernel_that_may_not_be_asked_counts_as_unsynchronised() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.fakes.no_adjtimex"], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["unsynced", "False"]
    assert done.stderr.count("Operation not permitted") == 1, "said once"
