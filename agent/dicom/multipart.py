"""The body of a STOW-RS request: multipart/related (RFC 2387, RFC 2046 clause 5.1)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message

PARTS = 1000
MOST_LETTERS = 200
"""Of a boundary. RFC 2046 allows 70; Orthanc's plug-in for DICOMweb takes 73."""
AFTER = re.compile(rb"(--)?[ \t]*(?:\r\n|$)")
"""What may follow a boundary; with the hyphens it is the last."""


class MultipartError(ValueError):
    """A body that does not follow the rules."""


@dataclass(frozen=True, slots=True)
class Delimiter:
    """Between two parts: bytes `start` to `end`, line ends included."""

    start: int
    end: int
    closes: bool


def boundary_of(content_type: str) -> bytes:
    """Of a Content-Type header. Raises MultipartError if it is not multipart/related with DICOM parts."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/related" or not isinstance(boundary, str) or not 1 <= len(boundary) <= MOST_LETTERS:
        raise MultipartError('Content-Type must be multipart/related; type="application/dicom"; boundary=…')
    if str(message.get_param("type", "application/dicom")) != "application/dicom":
        raise MultipartError("only parts of type application/dicom are taken")
    return boundary.encode()


def parts(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """The content of each part. Raises MultipartError for a body that is cut off, and for parts of other types."""
    found = list(_delimiters(body, boundary))
    if not found or not found[-1].closes:
        raise MultipartError("the body does not end with its closing boundary")
    if len(found) > PARTS + 1:
        raise MultipartError(f"more than {PARTS} parts in a request")
    for this, following in itertools.pairwise(found):
        empty_line = body.find(b"\r\n\r\n", this.end, following.start)
        if empty_line < 0:
            raise MultipartError("a part has no headers")
        kind = re.search(rb"^content-type:\s*([^;\r\n]+)", body[this.end : empty_line], re.IGNORECASE | re.MULTILINE)
        if kind and kind.group(1).strip().lower() != b"application/dicom":
            raise MultipartError("only parts of type application/dicom are taken")
        yield body[empty_line + 4 : following.start]


def _delimiters(body: bytes, boundary: bytes) -> Iterator[Delimiter]:
    """Looked for by `find`, which is twenty times as fast as a regular expression."""
    first = b"--" + boundary
    mark, start = (first, 0) if body.startswith(first) else (b"\r\n" + first, body.find(b"\r\n" + first))
    while start >= 0:
        after = AFTER.match(body, start + len(mark))
        if after:
            yield Delimiter(start, after.end(), after[1] is not None)
        mark = b"\r\n" + first
        start = body.find(mark, after.end() if after else start + 1)
