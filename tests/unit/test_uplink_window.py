"""The window of rows on their way, and the hub's sets of numbers."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.outbox import Row
from agent.uplink.session import Link
from agent.uplink.window import Window
from fleet.intervals import Intervals

pytestmark = pytest.mark.unit


def rows(*numbers: int, spool: str = "a") -> list[Row]:
    """Rows with these numbers."""
    return [Row("event", spool, number, "cam", "count", b"") for number in numbers]


def taken(window: Window, now: float) -> list[int]:
    """Numbers of everything that is due."""
    found = []
    while (parcel := window.take(now)) is not None:
        found.append(parcel.row.seq)
    return found


def test_rows_leave_in_order_and_once() -> None:
    window = Window(10)
    window.add(rows(1, 2, 3), now=5.0)
    assert taken(window, 4.9) == []
    assert taken(window, 5.0) == [1, 2, 3]
    assert taken(window, 99.0) == []
    assert window.room == 7


def test_a_row_comes_again_when_it_is_due() -> None:
    window = Window(10)
    window.add(rows(1, 2), now=0.0)
    first = window.take(0.0)
    assert first is not None
    window.schedule(first, 8.0)
    assert taken(window, 7.9) == [2]
    assert window.next_due() == 8.0
    window.hasten(first, 9.0)
    assert window.next_due() == 8.0
    window.hasten(first, 3.0)
    assert taken(window, 3.0) == [1]
    assert first.sends == 2


def test_settled_rows_do_not_come_again() -> None:
    window = Window(10)
    window.add(rows(1, 2, 3, 4), now=0.0)
    for parcel in window.covered("a", 1, [(3, 3)]):
        window.remove(parcel)
    assert taken(window, 0.0) == [2, 4]
    assert ("a", 1) not in window
    assert window.covered("b", 4, []) == []


def test_spools_are_kept_apart() -> None:
    window = Window(10)
    window.add([*rows(1, spool="a"), *rows(1, spool="b")], now=0.0)
    (parcel,) = window.covered("b", 1, [])
    assert parcel.key == ("b", 1)


@pytest.mark.parametrize(("maximum", "room"), [(1, 1), (2, 1), (8, 4), (20, 16), (65535, 65531)])
def test_places_are_kept_for_birth_and_replies(maximum: int, room: int) -> None:
    assert Link(None, "5", maximum, 0).room_for_rows == room  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 8))))
def test_intervals_are_a_set(spans: list[tuple[int, int]]) -> None:
    intervals, plain = Intervals(), set()
    for low, more in spans:
        intervals.add(low, low + more)
        plain |= set(range(low, low + more + 1))
    pairs = list(intervals)
    assert {number for low, high in pairs for number in range(low, high + 1)} == plain
    assert all(high + 1 < low for (_, high), (low, _) in itertools.pairwise(pairs))
    assert intervals.upto == next(number for number in range(80) if number + 1 not in plain)
    assert all((number in intervals) == (number in plain) for number in range(80))
