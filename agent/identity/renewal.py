"""A certificate is renewed, with a new key, when two thirds of its time are over."""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.checking import taken
from agent.identity.client import EnrolmentServer
from agent.identity.errors import IdentityError
from agent.identity.folder import IdentityFolder
from agent.identity.keys import Pair, prove, request_for
from agent.identity.protocol import Renew, Waiting
from agent.rounds import Rounds

log = logging.getLogger(__name__)

AFTER = 2 / 3
SPREAD = 1 / 30
"""Devices that joined together do not all ask at once: each has its own place in this share of the lifetime."""
UNPROVEN_S = 3600.0


@dataclass(frozen=True)
class RenewalPace:
    """How often the certificate is looked at, and how long a failed renewal waits: half of it at least, doubled each time up to the cap."""

    look_s: float = 30.0
    again_s: float = 60.0
    cap_s: float = 3600.0


RENEWAL_PACE = RenewalPace()


def due_at(pair: Pair) -> float:
    """When it is to be renewed, in seconds since 1970."""
    place = int.from_bytes(hashlib.sha256(pair.name.encode()).digest()[:4], "big") / 2**32
    return pair.begins + (AFTER + SPREAD * place) * (pair.ends - pair.begins)


class Renewal:
    """A thread of the uplink. `reconnect` makes the session use the new certificate; `tell` gets what is wrong, empty when nothing is.

    A session that begins tries a certificate that waits by itself; one that it has not proven is tried again after a while.
    """

    def __init__(
        self, url: str, folder: IdentityFolder, reconnect: Callable[[], None], tell: Callable[[str], None], pace: RenewalPace
    ) -> None:
        self._url = url
        self._folder = folder
        self._reconnect = reconnect
        self._tell = tell
        self._pace = pace
        self._failures = 0
        self._not_before = 0.0
        self._tried_at = time.monotonic()
        self._said = ""
        self._rounds = Rounds("renewal", self.look, pace.look_s)

    def start(self) -> None:
        """Look at once, and from then on."""
        self._rounds.start()

    def stop(self) -> None:
        """End after what is under way."""
        self._rounds.stop()

    def look(self) -> None:
        """Renew the certificate if it is time."""
        if time.monotonic() < self._not_before:
            return
        try:
            pair = self._folder.pair()
            if self._folder.renewed() is not None:
                if time.monotonic() - self._tried_at >= UNPROVEN_S:
                    self._begin_anew()
            elif time.time() >= due_at(pair):
                self._renew(pair)
            else:
                self._say("")
        except IdentityError as error:
            self._wait(self._pace.again_s * 2.0 ** min(self._failures, 20))
            self._failures += 1
            self._say(f"the certificate is not renewed: {error}")

    def _renew(self, pair: Pair) -> None:
        """Each step leaves a file behind, from which the next attempt goes on. Raises IdentityError."""
        answer = renew(self._url, self._folder, pair)
        if isinstance(answer, Waiting):
            self._wait(max(self._pace.again_s, answer.again_after_s))
            self._say(f"the certificate waits for the operator (`almena fleet approve {answer.waiting}`): {answer.reason}")
            return
        self._failures = 0
        self._say("")
        log.info("the certificate is renewed until %s; the session begins anew with it", _day(answer.ends))
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._tried_at = time.monotonic()
        self._reconnect()

    def _wait(self, seconds: float) -> None:
        self._not_before = time.monotonic() + min(seconds, self._pace.cap_s) * random.uniform(0.5, 1.0)

    def _say(self, text: str) -> None:
        if text and text != self._said:
            log.warning("%s", text)
        self._said = text
        self._tell(text)


def renew(url: str, folder: IdentityFolder, pair: Pair) -> Pair | Waiting:
    """Ask for a certificate with a new key, and leave both in `next.pem`. Raises IdentityError."""
    key = folder.key(folder.renewal_key)
    request = request_for(pair.name, key)
    body = Renew(certificate=pair.certificate.public_bytes(Encoding.PEM).decode(), request=request, proof=prove("renew", request, pair.key))
    try:
        ca = folder.ca.read_bytes()
    except OSError as error:
        raise IdentityError(f"{folder.ca} cannot be read ({error.strerror}): run `almena join URL TOKEN` with a new token") from error
    answer = EnrolmentServer(url).ask("renew", body, ca)
    if isinstance(answer, Waiting):
        return answer
    new = taken(answer.certificate, key, pair.name, ca)
    folder.write(folder.next, new.pem)
    return new


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, timezone.utc):%Y-%m-%d}"
