"""Bodies of STOW-RS (RFC 2046, 5.1)."""

from __future__ import annotations

import pytest

from agent.dicom.multipart import MultipartError, parts

pytestmark = pytest.mark.unit
HEAD = b"Content-Type: application/dicom\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"--b\r\n" + HEAD + b"one\r\n--b\r\n" + HEAD + b"\r\ntwo\r\n--b--\r\n", [b"one", b"\r\ntwo"]),
        (b"before\r\n--b \t\r\n" + HEAD + b"one\r\n--b--", [b"one"]),
        (b"--b\r\n" + HEAD + b"x--b\r\n-\r\n--bc\r\n--b\r\r\n--b--\r\nafter", [b"x--b\r\n-\r\n--bc\r\n--b\r"]),
        (b"--b--\r\n", []),
    ],
)
def test_a_boundary_counts_on_a_line_of_its_own(body: bytes, found: list[bytes]) -> None:
    assert list(parts(body, b"b")) == found


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"--b\r\n" + HEAD + b"one\r\n--b", "closing boundary"),
        (b"x--b--", "closing boundary"),
        (b"--b\r\n--b--\r\n", "closing boundary"),
        (b"--b\r\nno headers\r\n--b--", "no headers"),
        (b"--b\r\nContent-Type: text/plain\r\n\r\none\r\n--b--", "application/dicom"),
        (b"--b\r\n" + (HEAD + b"\r\n--b\r\n") * 1001 + HEAD + b"\r\n--b--", "more than 1000"),
    ],
)
def test_a_body_that_does_not_follow_the_rules_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(MultipartError, match=why):
        list(parts(body, b"b"))
