"""What the hub wants this device to be set to: checked, tried, and kept, or taken back where it does not work.

    down/desired ─► checked against this device ─► tried by the vision process ─► kept: it holds, also at the next start
                                 └─► refused ◄── a stream fails, not ready in time ◄─┘

Until it is kept, whatever ends, a process or the machine, comes up with what held before, and it is tried again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from agent import __version__, wire
from agent.audit import record
from agent.errors import SettingsError
from agent.outbox import Outbox, OutboxError
from agent.remote import Effective, RemoteError, Wish, effective, keep, kept, laid_over
from agent.uplink.trial import PATIENCE, Patience, Trial
from agent.uplink.vision_link import VisionError, VisionLink, VisionRefusedError
from engines.files import replacing

log = logging.getLogger(__name__)

TRIES = 3
MOST_ERRORS, LONGEST_ERROR = 20, 500


@dataclass(frozen=True)
class Wanted:
    """The newest wish, why it is refused, by which `agent` (its version and settings file), and how often it was tried without an end."""

    wish: Wish
    refused: tuple[str, ...] = ()
    agent: str = ""
    tries: int = 0

    @classmethod
    def read(cls, file: Path) -> Wanted | None:
        """None where there is none that can be read: the broker has it still."""
        try:
            said = json.loads(file.read_bytes())
            return cls(Wish.of_json(said["wish"]), tuple(map(str, said["refused"])), str(said["agent"]), int(said["tries"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            log.warning("%s is not read: %s; what the hub wants comes again from the broker", file, error)
            return None

    def write(self, file: Path) -> None:
        """Durable, unless the disk does not take it: then what was refused is tried again after a start."""
        try:
            with replacing(file) as part:
                part.write_text(json.dumps({**asdict(self), "wish": self.wish.as_json()}))
        except OSError as error:
            log.error("%s cannot be written: %s", file, error)


class DesiredSettings:
    """A thread. `config`: the settings file; `took` hears what holds from now on; `report` is asked for a report."""

    def __init__(
        self,
        config: Path,
        now: Effective,
        outbox: Outbox,
        took: Callable[[Effective], None],
        report: Callable[[], None],
        patience: Patience = PATIENCE,
    ) -> None:
        self._config = config
        self._effective = now
        self._file = now.settings.state_dir / "uplink" / "desired.json"
        self._vision = VisionLink(now.settings.control_socket)
        self._outbox = outbox
        self._took = took
        self._report = report
        self._patience = patience
        self._lock = threading.Lock()
        self._wanted = Wanted.read(self._file)
        if self._wanted is not None and self._wanted.refused and self._wanted.agent != self._agent:
            self._wanted = Wanted(self._wanted.wish)
        self._trying: int | None = None
        self._stale = False
        self._note = ""
        self._stopping = threading.Event()
        self._woken = threading.Event()
        self._thread = threading.Thread(target=self._run, name="desired", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread. What is being tried is left to the next start."""
        self._stopping.set()
        self._woken.set()
        self._thread.join(timeout)

    def submit(self, payload: bytes) -> None:
        """Take a message on the desired state; an empty one takes it back. Raises WireError, and then nothing changes."""
        with self._lock:
            try:
                self._note = ""
                if payload:
                    self._want(wire.decode(wire.Desired, payload))
                else:
                    self._withdraw()
            except wire.WireError as error:
                self._note = f"a desired state cannot be read: {error}"
                raise
        self._woken.set()

    def again(self) -> None:
        """Take over what the settings file says now, and try again what was refused."""
        with self._lock:
            if self._wanted is not None and self._wanted.refused:
                self._set(Wanted(self._wanted.wish))
            self._stale = True
        self._woken.set()

    def reported(self) -> dict[str, Any]:
        """The fields of `wire.Reported` that answer the desired state."""
        wanted, wish = self._wanted, self._effective.wish
        refused = wanted if wanted and wanted.refused else None
        errors = refused.refused if refused else tuple(filter(None, (self._note, self._effective.problem)))
        return {
            "revision": wish.revision if wish else None,
            "trying": self._trying,
            "refused": refused.wish.revision if refused else None,
            "errors": errors,
        }

    def _want(self, desired: wire.Desired) -> None:
        wish, newest = Wish(desired.revision, desired.state), (self._wanted and self._wanted.wish) or self._effective.wish
        if newest is not None and wish.revision < newest.revision:
            self._note = f"revision {wish.revision} is older than revision {newest.revision}, which was wanted before"
        elif newest is not None and wish.revision == newest.revision and wish.mark != newest.mark:
            self._note = f"revision {wish.revision} was wanted before with other content; want it under a higher number"
        elif newest is None or wish.mark != newest.mark:
            self._set(Wanted(wish))
        if self._note:
            log.warning("%s", self._note)

    def _withdraw(self) -> None:
        """From now on the settings file holds alone."""
        self._wanted = None
        try:
            self._file.unlink(missing_ok=True)
            if self._kept():
                keep(self._effective.settings.state_dir, None)
                self._told_at_last("taken back", None)
            self._stale = True
        except (RemoteError, OSError) as error:
            self._note = f"what the hub took back holds still: {error}"
            log.error("%s", self._note)

    def _kept(self) -> bool:
        """Whether something of the hub's is kept, which need not hold: the settings file may not let it."""
        try:
            return kept(self._effective.settings.state_dir) is not None
        except RemoteError:
            return True

    def _set(self, wanted: Wanted) -> None:
        self._wanted = wanted
        wanted.write(self._file)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._woken.clear()
            try:
                self._round()
            except Exception:  # a supervisor: no wish may end the thread
                log.exception("what the hub wants could not be looked after")
            self._woken.wait(self._patience.idle_s)

    def _round(self) -> None:
        if self._stale:
            self._stale = False
            self._refresh()
        wanted = self._wanted
        if wanted is not None and not wanted.refused and wanted.wish != self._effective.wish:
            self._try(wanted)
        if self._wanted is wanted:
            self._settle()

    def _settle(self) -> None:
        """Whatever came between, both processes go by what is kept."""
        try:
            if self._vision.get("/health")["in_force"]["wish"] != self._mark:
                self._refresh()
                self._vision.post("/reload")
        except VisionError as error:
            log.debug("%s", error)

    @property
    def _mark(self) -> str:
        return self._effective.wish.mark if self._effective.wish else ""

    def _refresh(self) -> None:
        """Read what holds; a settings file with errors changes nothing."""
        try:
            self._effective = effective(self._config)
        except SettingsError as error:
            log.error("%s", error)
            return
        self._took(self._effective)
        self._report()

    def _try(self, wanted: Wanted) -> None:
        try:
            settings = laid_over(self._config, wanted.wish)
            trial = Trial(self._vision, wanted.wish, self._effective.settings, settings, self._patience)
            if wanted.tries >= TRIES:
                raise SettingsError(f"it was tried {TRIES} times, and each time a process or the device ended meanwhile")
            self._told("accepted", wanted.wish)
        except SettingsError as error:
            self._refuse(wanted, str(error).splitlines())
        except (VisionError, OutboxError) as error:
            self._wait(f"revision {wanted.wish.revision} is not tried yet: {error}")
        else:
            wanted = self._begun(wanted)
            self._end(wanted, trial)

    def _wait(self, why: str) -> None:
        if why != self._note:
            self._note = why
            log.warning("%s", why)
            self._report()

    @property
    def _agent(self) -> str:
        """With another one, what was refused may be right."""
        try:
            return hashlib.sha256(__version__.encode() + self._config.read_bytes()).hexdigest()[:16]
        except OSError:
            return ""

    def _begun(self, wanted: Wanted) -> Wanted:
        with self._lock:
            begun = Wanted(wanted.wish, tries=wanted.tries + 1)
            if self._wanted is wanted:
                self._set(begun)
                self._note = ""
        self._trying = wanted.wish.revision
        log.info("revision %d of what the hub wants is being tried", wanted.wish.revision)
        self._report()
        return begun

    def _end(self, wanted: Wanted, trial: Trial) -> None:
        """`wanted` may be something else by now."""
        try:
            errors = trial.run(lambda: self._stopping.is_set() or self._wanted is not wanted)
        except VisionRefusedError as error:
            errors = str(error).splitlines()
        finally:
            self._trying = None
        if errors:
            self._refuse(wanted, errors)
        elif errors is None:
            self._woken.set()
            self._report()
        else:
            self._accept(wanted)

    def _accept(self, wanted: Wanted) -> None:
        with self._lock:
            if self._wanted is not wanted:
                return
            try:
                keep(self._effective.settings.state_dir, wanted.wish)
            except RemoteError as error:
                failed: Sequence[str] = [str(error)]
            else:
                failed = []
        if failed:
            self._refuse(wanted, failed)
            return
        log.info("revision %d of what the hub wants holds", wanted.wish.revision)
        self._told_at_last("done", wanted.wish)
        self._refresh()

    def _refuse(self, wanted: Wanted, errors: Sequence[str]) -> None:
        """What held before goes on, or holds again."""
        shown = tuple(error[:LONGEST_ERROR] for error in errors[:MOST_ERRORS])
        with self._lock:
            if self._wanted is not wanted:
                return
            self._set(Wanted(wanted.wish, shown, self._agent, wanted.tries))
        log.error("revision %d of what the hub wants is refused: %s", wanted.wish.revision, "; ".join(shown))
        self._told_at_last("refused", wanted.wish)
        self._settle()
        self._report()

    def _told(self, outcome: str, wish: Wish | None) -> None:
        """Raises OutboxError."""
        detail = {"revision": wish.revision, "sections": sorted(wish.state)} if wish else {}
        record(self._outbox, "hub", "settings", outcome, detail)

    def _told_at_last(self, outcome: str, wish: Wish | None) -> None:
        try:
            self._told(outcome, wish)
        except OutboxError as error:
            log.error("that what the hub wants is %s could not be recorded: %s", outcome, error)
