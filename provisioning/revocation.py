"""Revocation: refused from now on, and disconnected at once.

A broker that reads a new list of revoked certificates refuses new connections, and leaves those that are there alone. So:

    list with the device and a canary ──► broker reads it ──► the canary is refused: the list is in force
        ──► a session under the device's name takes its place: it is thrown out, and cannot come back
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives.serialization import Encoding

from agent.identity.keys import Pair
from provisioning.broker import write_crl
from provisioning.ca import Authority
from provisioning.client import Endpoint, NotAcceptedError, session
from provisioning.errors import FleetError
from provisioning.register import Register

IN_FORCE_WITHIN_S = 10.0
MINUTES = timedelta(minutes=10)
CANARY = "fleet.canary"
RELOAD_WITHIN_S = 30.0
PROGRAM = "mosquitto"


@dataclass(frozen=True)
class Revocation:
    """How many certificates it was, and seconds from the beginning until the broker had read the list, and until the session was over."""

    certificates: int
    in_force_s: float
    disconnected_s: float


def take_back(name: str, register: Register) -> int:
    """Nothing is given out or renewed under this name from now on, and every list that is written names it. Returns how many certificates
    it had. Raises FleetError where it never had one."""
    if not register.knows(name):
        raise FleetError(f"nobody with the name {name!r} has a certificate of this fleet: `almena fleet devices` lists the devices")
    count = register.revoke(name)
    register.note("revoke", name, "revoked", f"{count} certificate(s)")
    return count


def revoke(name: str, authority: Authority, register: Register, folder: Path, endpoint: Endpoint, reload: Callable[[], None]) -> Revocation:
    """Raises FleetError: the device is unknown, or the broker does not do what it is told; then the name is revoked all the same, and the
    command may be given again."""
    began = time.monotonic()
    count = take_back(name, register)
    canary = authority.client(CANARY, MINUTES)
    register.add(canary.certificate, "fleet", canary.certificate.public_bytes(Encoding.PEM))
    register.revoke(CANARY)
    try:
        write_crl(folder, authority, register)
        reload()
        _until_refused(endpoint, canary)
        in_force = time.monotonic() - began
        with session(endpoint, authority.client(name, MINUTES)):
            return Revocation(count, in_force, time.monotonic() - began)
    except NotAcceptedError as error:
        why = f"the broker does not take the fleet's own certificate ({error}): was its configuration made by this fleet?"
        raise _half_done(name, why) from error
    except OSError as error:
        why = f"the broker at {endpoint.host}:{endpoint.port} does not answer ({error.strerror or error}): when it starts it reads the list"
        raise _half_done(name, f"{why} by itself; give the command again to be sure") from error
    except FleetError as error:
        raise _half_done(name, str(error)) from error


def _half_done(name: str, why: str) -> FleetError:
    return FleetError(f"{name} is revoked in the register, and stays so; its session, if it has one, was not ended: {why}")


def reload_by(command: tuple[str, ...], settings: Path, folder: Path) -> Callable[[], None]:
    """How the broker is made to read its files: a command of the operator's, or SIGHUP to the process of its pid file.

    The command stands in `settings`: root runs it as whoever owns that file, who could have written it.
    """

    def run() -> None:
        owner = settings.stat().st_uid
        other: dict[str, Any] = {"user": owner, "group": settings.stat().st_gid, "extra_groups": []} if os.geteuid() == 0 != owner else {}
        try:
            subprocess.run(command, check=True, timeout=RELOAD_WITHIN_S, capture_output=True, **other)
        except (OSError, subprocess.SubprocessError) as error:
            who = f" as user {owner}, who owns it" if other else ""
            raise FleetError(f"broker.reload in fleet.yaml failed{who} ({error}): correct it, and give the command again") from error

    def hang_up() -> None:
        file = folder / "state" / "mosquitto.pid"
        try:
            broker = psutil.Process(int(file.read_text()))
            if broker.name() != PROGRAM:  # the number of a broker that died may be another's by now
                raise ValueError(f"process {broker.pid} is {broker.name()}")
            broker.send_signal(signal.SIGHUP)
        except (OSError, ValueError, psutil.Error) as error:
            gone = isinstance(error, (FileNotFoundError, psutil.NoSuchProcess))
            why = "none runs here" if gone else getattr(error, "strerror", None) or error
            raise FleetError(
                f"the broker cannot be told ({file}: {why}): start it, which reads the list; or run as root; or set broker.reload in"
                " fleet.yaml where it runs on another machine; then give the command again"
            ) from error

    return run if command else hang_up


def _until_refused(endpoint: Endpoint, canary: Pair) -> None:
    """Try until the broker says no. Raises FleetError where it does not."""
    deadline = time.monotonic() + IN_FORCE_WITHIN_S
    while time.monotonic() < deadline:
        try:
            with session(endpoint, canary):
                time.sleep(0.05)
        except NotAcceptedError:
            return
    raise FleetError(
        f"the broker at {endpoint.host}:{endpoint.port} still takes revoked certificates {IN_FORCE_WITHIN_S:g} s after it was told: does it"
        " use the configuration of `almena fleet broker-config`? Give the command again once it does"
    )
