"""What `almena fleet acl-matrix` finds out: the matrix, wills, and how fast a revocation is and whether it lasts."""

from __future__ import annotations

import time
from dataclasses import dataclass

from provisioning.acl_matrix import HEARD_WITHIN_S, Matrix, try_all, try_will
from provisioning.client import NotAcceptedError, session
from provisioning.trial import Trial

DISCONNECTED_WITHIN_S = 5.0
LOST = "cam-9"


@dataclass(frozen=True)
class Proof:
    """`will`: a device can leave a will on another's status. `revocation`: seconds, and what a reconnect got."""

    matrix: Matrix
    will: bool
    revocation: dict[str, float | bool]

    @property
    def wrong(self) -> list[str]:
        """What is not as it should be."""
        found = self.matrix.wrong
        if self.will:
            found.append("a device can leave a will on the status of another")
        if self.revocation["disconnected_s"] > DISCONNECTED_WITHIN_S:
            found.append(f"a revoked device was disconnected after {self.revocation['disconnected_s']:.1f} s")
        found += [f"a revoked device: {key} is false" for key, value in self.revocation.items() if value is False]
        return found

    @property
    def text(self) -> str:
        """Sentences for people."""
        told = self.revocation
        return (
            f"Revoked with a live session: disconnected after {told['disconnected_s']:.2f} s; on reconnect"
            f" {_refused(told['refused_on_reconnect'])}; after the broker was killed and started again"
            f" {_refused(told['refused_after_restart'])}. A will on the status of another device is {_refused(not self.will)}."
        )


def prove(trial: Trial) -> Proof:
    """On a broker that runs; it is restarted."""
    return Proof(try_all(trial), try_will(trial), _revocation(trial))


def _revocation(trial: Trial) -> dict[str, float | bool]:
    pair = trial.device(LOST)
    with session(trial.endpoint, pair) as device:
        began = time.monotonic()
        trial.revoke(LOST)
        ended = device.ended.wait(HEARD_WITHIN_S)
        took = time.monotonic() - began

    def refused() -> bool:
        try:
            with session(trial.endpoint, pair):
                return False
        except NotAcceptedError:
            return True

    reconnect = refused()
    trial.stop(kill=True)
    trial.start()
    return {"session_ended": ended, "disconnected_s": took, "refused_on_reconnect": reconnect, "refused_after_restart": refused()}


def _refused(yes: float | bool) -> str:
    return "refused" if yes else "ACCEPTED"
