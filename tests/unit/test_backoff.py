"""How long is waited before the next try."""

from __future__ import annotations

import pytest

from agent.backoff import Backoff

pytestmark = pytest.mark.unit


def test_the_back_off_grows_has_full_jitter_and_a_cap() -> None:
    bounds = []
    backoff = Backoff(base_s=0.5, cap_s=30, uniform=lambda low, high: bounds.append((low, high)) or high)  # type: ignore[func-returns-value]
    delays = [backoff.delay(attempt) for attempt in (0, 1, 2, 5, 6, 7, 1000)]
    assert delays == [0.5, 1, 2, 16, 30, 30, 30]
    assert {low for low, _ in bounds} == {0.0}
    drawn = [Backoff(0.5, 30).delay(3) for _ in range(300)]
    assert min(drawn) < 1 < 3 < max(drawn) <= 4
