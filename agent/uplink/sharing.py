"""Shares identities with the other devices of the site: asks the hub's door what is to be done, and does it.

gallery (vision) ◄──► Sharing ◄──► door ◄──► hub: boxes that are sealed for one device each

Everybody's word is checked against the fleet's CA: for whose key a box is sealed, and who has sealed one.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from agent import wire
from agent.audit import audited
from agent.backoff import Backoff
from agent.errors import AlmenaError
from agent.identity.errors import IdentityError
from agent.identity.folder import IdentityFolder
from agent.identity.keys import Pair
from agent.outbox import Outbox
from agent.rounds import Rounds
from agent.sharing import vouching
from agent.sharing.protocol import (
    MOST_IDENTITIES,
    PREFIX,
    Box,
    Declined,
    Duties,
    Held,
    Label,
    Own,
    Receipt,
    Receipts,
    SharingKey,
    SignedReceipt,
    Sync,
)
from agent.uplink.door import Door, DoorRefusedError
from agent.uplink.shared_at import SharedAt
from agent.uplink.status import UplinkStatus
from agent.uplink.vision_link import VisionError, VisionLink

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""The gallery is looked at so often; the hub is asked when it has changed, when the hub says so, and now and then."""
NOW_AND_THEN_S = 900.0
DECLINED_S = 3600.0
"""What could not be taken is tried again after so long."""
MOST_ROUNDS = 100
MOST_REASONS = 3
"""In the status."""
JSON = "application/json"


@dataclass
class _Round:
    """What the gallery says, and who this device is while one exchange goes on."""

    state: dict[str, Any]
    pair: Pair
    ca: bytes
    done: bool = field(default=False, init=False)

    @property
    def device(self) -> str:
        """The name in its certificate."""
        return self.pair.name

    @property
    def known(self) -> set[str]:
        """Ids of all identities in the gallery."""
        return {one["id"] for one in (*self.state["own"], *self.state["held"])}


class Sharing:
    """A thread. `wake` makes it ask the hub at once. Without `enabled` it only tells the hub, once, that this device does not share."""

    def __init__(
        self,
        door: Door,
        vision: VisionLink,
        folder: IdentityFolder,
        outbox: Outbox,
        status: UplinkStatus,
        shared_at: SharedAt,
        *,
        enabled: bool,
    ) -> None:
        self._door = door
        self._vision = vision
        self._folder = folder
        self._outbox = outbox
        self._status = status
        self._shared_at = shared_at
        self._look = self._share if enabled else self._leave
        self._rounds = Rounds("sharing", self._look_once, LOOK_S)
        self._backoff = Backoff(base_s=2 * LOOK_S, cap_s=300.0)
        self._asked = threading.Event()
        self._told: dict[str, Any] = {}
        self._due = 0.0
        self._attempt = 0
        self._declined: dict[str, tuple[float, Declined]] = {}
        self._warned = ""

    def start(self) -> None:
        """Begin."""
        self._rounds.start()

    def stop(self) -> None:
        """End after the step in hand."""
        self._rounds.stop()

    def wake(self) -> None:
        """The hub has something for this device."""
        self._asked.set()

    def _look_once(self) -> None:
        try:
            self._look()
        except (AlmenaError, ValidationError, OSError) as error:
            self._due = time.monotonic() + self._backoff.delay(self._attempt)
            self._attempt += 1
            self._told = {}
            self._say(str(error) if isinstance(error, AlmenaError) else f"{type(error).__name__}")

    def _say(self, trouble: str) -> None:
        if trouble and trouble != self._warned and self._attempt != 1:  # the vision process may only be later than this one
            log.warning("identities cannot be shared now, which is tried again: %s", trouble)
            self._warned = trouble
        elif not trouble:
            self._warned = ""
        self._status.sharing_trouble = trouble

    def _leave(self) -> None:
        if self._told or time.monotonic() < self._due:
            return
        self._door.post(f"{PREFIX}/leave", {})
        self._shared_at.forget()
        self._told = {"left": True}
        self._say("")

    def _share(self) -> None:
        now = time.monotonic()
        if now < self._due and self._attempt:  # after a failure
            return
        state = self._vision.get("/sharing")
        if state == self._told and now < self._due and not self._asked.is_set():
            return
        self._asked.clear()
        self._shared_at.note(self._door.url)
        self._declined = {key: one for key, one in self._declined.items() if now < one[0]}
        for _ in range(MOST_ROUNDS):
            turn = _Round(state, self._folder.pair(), self._ca())
            duties = Duties.model_validate(self._door.post(f"{PREFIX}/sync", self._sync(turn).model_dump()))
            self._carry_out(duties, turn)
            if not turn.done or self._rounds.stopping:
                break
            state = self._vision.get("/sharing")
        self._told, self._due, self._attempt = state, now + NOW_AND_THEN_S, 0
        self._status.sharing_waiting = len(duties.fetch) + sum(len(one.to) for one in duties.seal)
        self._status.sharing_declined = sorted({one.reason for _, one in self._declined.values()})[:MOST_REASONS]
        self._say(duties.trouble)

    def _ca(self) -> bytes:
        try:
            return self._folder.ca.read_bytes()
        except OSError as error:
            raise IdentityError(f"{self._folder.ca} cannot be read ({error.strerror}): run `almena join URL TOKEN`") from error

    def _sync(self, turn: _Round) -> Sync:
        unsigned = f"{turn.device}\0{turn.state['public']}"
        key = SharingKey(device=turn.device, public=turn.state["public"], signed=vouching.signed(turn.pair, vouching.KEY, unsigned))
        erased = [one["identity"] for one in turn.state["receipts"] if one["reason"] != "left"]
        return Sync(
            key=key,
            own=tuple(Own.model_validate(one) for one in turn.state["own"][:MOST_IDENTITIES]),
            held=tuple(Held.model_validate(one) for one in turn.state["held"][:MOST_IDENTITIES]),
            declined=tuple(one for _, one in self._declined.values())[:MOST_IDENTITIES],
            erased=tuple(dict.fromkeys(erased[-MOST_IDENTITIES:])),
        )

    def _carry_out(self, duties: Duties, turn: _Round) -> None:
        """Erasures before all else."""
        for identity in duties.erase:
            self._erase(identity, "ordered", wire.IDENTITY_ERASE, turn)
        for identity in duties.leave:
            self._erase(identity, "left", "identity leave", turn)
        if duties.receipts:
            self._send_receipts(frozenset(duties.receipts), turn)
        for asked in duties.seal:
            for key in asked.to:
                if not self._rounds.stopping:
                    self._seal(asked.id, key, turn)
        for held in duties.fetch:
            if not self._rounds.stopping:
                self._fetch(held, turn)

    def _erase(self, identity: str, reason: str, action: str, turn: _Round) -> None:
        turn.done |= identity in turn.known
        with audited(self._outbox, "hub", action, id=identity):
            self._vision.post("/sharing/erase", {"id": identity, "reason": reason})

    def _send_receipts(self, wanted: frozenset[str], turn: _Round) -> None:
        found = {one["identity"]: one for one in turn.state["receipts"] if one["identity"] in wanted and one["reason"] != "left"}
        receipts = [Receipt.model_validate({**one, "device": turn.device}) for one in found.values()]
        signed = tuple(SignedReceipt(receipt=one, signed=vouching.signed(turn.pair, vouching.RECEIPT, one.text)) for one in receipts)
        self._door.post(f"{PREFIX}/receipts", Receipts(receipts=signed).model_dump())

    def _seal(self, identity: str, key: SharingKey, turn: _Round) -> None:
        """For one device, whose key its certificate vouches for."""
        revision = next((one["revision"] for one in turn.state["own"] if one["id"] == identity), None)
        if revision is None:
            return
        try:
            vouching.require(key.signed, vouching.KEY, key.text, key.device, turn.ca)
        except vouching.VouchError as error:
            log.warning("the identity %s is not sealed for %s: %s", identity, key.device, error)
            return
        label = Label(id=identity, revision=revision, origin=turn.device, to=key.device, sealed_at=time.time())
        try:
            with audited(self._outbox, "hub", "identity share", id=identity, to=key.device):
                sealed = self._vision.post("/sharing/seal", {"label": label.model_dump(), "public": key.public})[1]["sealed"]
                box = Box(label=label, sealed=sealed, signed=vouching.signed(turn.pair, vouching.BOX, Box.text(label, sealed)))
                self._door.put(f"{PREFIX}/boxes", box.model_dump_json().encode(), JSON)
            turn.done = True
        except (VisionError, DoorRefusedError) as error:
            log.warning("the identity %s could not be sealed for %s: %s", identity, key.device, error)

    def _fetch(self, wanted: Held, turn: _Round) -> None:
        try:
            sent = self._door.get(f"{PREFIX}/boxes/{wanted.id}/{wanted.revision}")
        except DoorRefusedError as error:  # erased meanwhile, or the device is of another site by now
            log.info("the identity %s is no longer there: %s", wanted.id, error)
            return
        turn.done = True
        try:
            box = Box.model_validate_json(sent)
            self._require_mine(box, wanted, turn)
        except (vouching.VouchError, ValidationError) as error:
            reason = str(error) if isinstance(error, AlmenaError) else "the box cannot be read by this version"
            log.warning("the identity %s is not taken: %s", wanted.id, reason)
        else:
            with audited(self._outbox, "hub", "identity take", id=wanted.id, origin=box.label.origin) as entry:
                asked = {"label": box.label.model_dump(), "sealed": box.sealed}
                reason = self._vision.post("/sharing/take", asked)[1]["declined"]
                entry.outcome = "failed" if reason else "done"
        if reason:
            declined = Declined(id=wanted.id, revision=wanted.revision, reason=reason[:300])
            self._declined[wanted.id] = time.monotonic() + DECLINED_S, declined

    def _require_mine(self, box: Box, wanted: Held, turn: _Round) -> None:
        """A certificate may have ended since a box was sealed: this device may have been away for long. Raises VouchError."""
        label = box.label
        if (label.id, label.revision, label.to) != (wanted.id, wanted.revision, turn.device):
            raise vouching.VouchError("the hub gave a box that is for something else")
        if label.sealed_at > time.time() + vouching.SKEW_S:
            raise vouching.VouchError("the box is sealed in the future; compare the clocks here and there")
        vouching.require(box.signed, vouching.BOX, Box.text(label, box.sealed), label.origin, turn.ca, label.sealed_at)
