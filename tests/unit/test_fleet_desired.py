"""What became of desired settings, by what a device reports."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.desired import outcome

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("revision", "reported", "expected"),
    [
        (None, {}, None),
        (3, {}, "waiting"),
        (3, {"revision": 2, "errors": ["revision 3 is not tried yet"]}, "waiting"),
        (3, {"revision": 2, "trying": 3}, "trying"),
        (3, {"revision": 2, "refused": 3}, "refused"),
        (4, {"revision": 2, "refused": 3}, "waiting"),
        (3, {"revision": 3, "trying": None, "refused": None}, "applied"),
    ],
)
def test_outcome(revision: int | None, reported: dict[str, Any], expected: str | None) -> None:
    assert outcome(revision, reported) == expected
