"""Random operations on the outbox, many."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.fakes.outbox_books import Books


class TestManyBooks(Books.TestCase):
    """Every time."""

    settings = settings(max_examples=20, stateful_step_count=25, deadline=None)


@pytest.mark.soak
@pytest.mark.timeout(3600)
class TestVeryManyBooks(Books.TestCase):
    """The full figure."""

    settings = settings(max_examples=1000, stateful_step_count=40, deadline=None)
