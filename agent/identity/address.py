"""Addresses of servers of the fleet: enrolment, and the hub's door."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Address:
    """Where an `https://` address leads."""

    host: str
    port: int
    path: str

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises ValueError for what is no address of a server: another scheme, no host, a user, a query, a port that is none, blanks."""
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", 443 if parts.port is None else parts.port
            host.encode("idna")  # what the resolver does
        except ValueError:
            host, port = "", 0
        plain = re.fullmatch(r"https://[!-~\w]+", url, re.IGNORECASE) and not {"?", "#", "@"} & set(url)
        if not plain or not port or not re.fullmatch(r"[\w.-]{1,253}|[0-9a-f:.]+", host):
            raise ValueError(
                f"{url!r} is no address of a server of the fleet: it begins with https:// and a host name, and may go on with a port"
                " (https://fleet.example.org:8643); an IPv6 address stands in brackets"
            )
        return cls(host, port, parts.path.rstrip("/"))
