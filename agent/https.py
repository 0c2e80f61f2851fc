"""One request over HTTPS, within bounds of time and size."""

from __future__ import annotations

import http.client
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

from agent.identity.address import Address


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    content: bytes


def ask(
    address: Address,
    method: str,
    path: str,
    context: ssl.SSLContext,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    within_s: float,
    largest: int,
) -> Answer:
    """`path` is below the address's own; what an answer has beyond `largest` bytes is left out.

    Raises OSError, ValueError or http.client.HTTPException where there is none.
    """
    connection = http.client.HTTPSConnection(address.host, address.port, timeout=within_s, context=context)
    try:
        connection.request(method, address.path + path, body, {"Connection": "close", **(headers or {})})
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read(largest))
    finally:
        connection.close()
