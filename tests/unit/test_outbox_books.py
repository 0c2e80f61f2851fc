"""Random operations on the outbox, a few; see tests/integration/test_outbox_books_at_length.py."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.fakes.outbox_books import Books

pytestmark = pytest.mark.unit

TestBooks = Books.TestCase
TestBooks.settings = settings(max_examples=4, stateful_step_count=20, deadline=None)
