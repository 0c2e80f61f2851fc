"""The body of a STOW-RS request: multipart/related (RFC 2387, RFC 2046 clause 5.1)."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from email.message import Message

PARTS = 1000


class MultipartError(ValueError):
    """A body that does not follow the rules."""


def boundary_of(content_type: str) -> bytes:
    """Of a Content-Type header. Raises MultipartError if it is not multipart/related with DICOM parts."""
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_param("boundary")
    if message.get_content_type() != "multipart/related" or not isinstance(boundary, str) or not 1 <= len(boundary) <= 70:
        raise MultipartError('Content-Type must be multipart/related; type="application/dicom"; boundary=…')
    if str(message.get_param("type", "application/dicom")) != "application/dicom":
        raise MultipartError("only parts of type application/dicom are taken")
    return boundary.encode()


def parts(body: bytes, boundary: bytes) -> Iterator[bytes]:
    """The content of each part. Raises MultipartError for a body that is cut off, and for parts of other types."""
    delimiter = re.compile(rb"(?:^|\r\n)--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r\n|$)")
    found = list(delimiter.finditer(body))
    if not found or not found[-1].group(1):
        raise MultipartError("the body does not end with its closing boundary")
    if len(found) > PARTS + 1:
        raise MultipartError(f"more than {PARTS} parts in a request")
    for this, following in itertools.pairwise(found):
        head, separator, content = body[this.end() : following.start()].partition(b"\r\n\r\n")
        if not separator:
            raise MultipartError("a part has no headers")
        kind = re.search(rb"^content-type:\s*([^;\r\n]+)", head, re.IGNORECASE | re.MULTILINE)
        if kind and kind.group(1).strip().lower() != b"application/dicom":
            raise MultipartError("only parts of type application/dicom are taken")
        yield content
