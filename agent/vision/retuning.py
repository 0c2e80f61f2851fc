"""Models are tuned anew when their tuning was made for something else than this device is by now."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from agent.errors import UsageError
from agent.rounds import Rounds
from agent.settings import Settings
from agent.vision import classifier_kit, face_kit
from agent.vision.classifier_kit import ClassifierKit
from agent.vision.face_kit import FaceKit, engine_options
from engines.errors import EngineError
from engines.files import replacing
from engines.model import Classifier, FaceDetector, FaceEmbedder, recipe
from engines.tuning import Tuning, fingerprint, outdated, standing

log = logging.getLogger(__name__)

LOOK_S = 60.0
AGAIN_S = 24 * 3600.0
"""How long nothing is tried again after it failed."""
LONGEST_S = 3600.0
"""A tuning with its conversions and builds that takes longer is ended."""
KEPT = 20
"""Tunings of which it is still said what became of them."""
SAID = 300
"""Letters of what a tuning that failed says last."""

LEAST_S, MOST_S = 1.0, 3600.0
"""For which a tuning that is asked for may measure."""

Model = FaceDetector | FaceEmbedder | Classifier


@dataclass(frozen=True, slots=True)
class _Stale:
    """A tuning that does not count: the fingerprint that it would need, and what to say of it."""

    mark: str
    why: str


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What was begun and has not succeeded. `why` is empty where it did not come to an end, as when the device was switched off."""

    mark: str
    at: float
    why: str = ""


class Retuning:
    """A thread that looks after the tunings of the models in use, one model at a time.

    Streams start without waiting for it, on what runs without a tuning. A tuning that does not count any more is made again by
    `almena tune` in a process of low priority; whatever counts in the end, also after a tuning by hand, takes the place of the engines in
    use, between two frames. What fails is told, and left for a day. A model that was never tuned stays so.
    """

    def __init__(self, settings: Settings, path: Path) -> None:
        """`path`: of the settings file, which `almena tune` reads."""
        self._settings = settings
        self._options = engine_options(settings)
        self._path = path
        self._record = settings.engines_dir / "retuning.json"
        self._told: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._asking = threading.Lock()
        self._asked: dict[str, float] = {}
        self._done: list[dict[str, Any]] = []
        self._rounds = Rounds("retuning", self._round, LOOK_S)

    def start(self) -> None:
        """Begin, unless the settings choose the engines themselves."""
        if self._options.left_to_tuner:
            self._rounds.start()

    def stop(self) -> None:
        """End the thread, and the tuning under way."""
        self._rounds.stop()
        for name in self._asked:
            log.warning("%s is not tuned as it was asked for: the process ends, or its settings have changed; ask again", name)

    def ask(self, model: str | None, budget_s: float | None) -> dict[str, Any]:
        """Tune a model in use, or all of them, soon and in the background, though there is a tuning that counts. Returns `state`.

        Raises UsageError for a model that is not in use, a budget out of bounds, and where there is nothing to tune or it is under way.
        """
        budget_s = self._settings.engines.retune_budget_s if budget_s is None else budget_s
        if not LEAST_S <= budget_s <= MOST_S:
            raise UsageError(f"budget_s must be from {LEAST_S:.0f} to {MOST_S:.0f}, not {budget_s:g}")
        if not self._options.left_to_tuner:
            raise UsageError("the settings choose the engine themselves: set engines.backend, unit and precision to auto")
        names = [name for name, _ in _models()]
        if (model is not None and model not in names) or not names:
            raise UsageError(f"models in use are: {', '.join(names) or 'none; streams may still be loading theirs'}")
        with self._asking:
            if self._asked:
                raise UsageError(f"a tuning is under way or waits already: {', '.join(self._asked)}")
            self._asked = dict.fromkeys([model] if model else names, budget_s)
        self._rounds.hasten()
        return self.state()

    def state(self) -> dict[str, Any]:
        """`goes_on`: the models that were asked for and are not done, the one that is measured first; `done`: what became of the last."""
        return {"goes_on": list(self._asked), "done": list(self._done)}

    def _round(self) -> None:
        try:
            self._tune_asked()
            if self._settings.engines.retune != "auto":
                return
            for name, stale in self._look().items():
                if not self._rounds.stopping:
                    self._tune(name, stale)
        except Exception:  # a supervisor: streams run on whatever becomes of a tuning
            log.exception("models cannot be tuned anew")

    def _tune_asked(self) -> None:
        for name, budget_s in list(self._asked.items()):
            began = time.monotonic()
            log.info("%s is being tuned, as it was asked for", name)
            why = self._run(name, budget_s)
            if self._rounds.stopping:
                return
            if why:
                log.error("%s could not be tuned: %s", name, why)
            else:
                self._look()
            with self._asking:
                del self._asked[name]
                outcome = {"model": name, "ok": not why, "detail": why, "seconds": round(time.monotonic() - began, 1), "at": time.time()}
                self._done = [*self._done, outcome][-KEPT:]

    def _look(self) -> dict[str, _Stale]:
        """Take up what counts; the tunings that do not, by the name that the settings have for the model."""
        found: dict[str, _Stale] = {}
        for name, model in _models():
            tuning, counts = standing(model.card, recipe(model.card), self._options.engines_dir, self._options.policy)
            if tuning is None or tuning == model.workshop.tuning:
                continue
            if not counts:
                mark = fingerprint(model.card, recipe(model.card), self._options.engines_dir, tuning.choice)
                found[name] = _Stale(mark, outdated(tuning))
            elif self._refused.get(name) != tuning.tuned_at:
                self._take_up(name, model, tuning)
        return found

    def _take_up(self, name: str, model: Model, tuning: Tuning) -> None:
        try:
            model.renew()
        except EngineError as error:
            self._refused[name] = tuning.tuned_at
            log.error("%s goes on as it is, because what was tuned cannot be run: %s", name, error)
        else:
            log.info("%s goes over to what was tuned: %s", name, model.why)

    def _tune(self, name: str, stale: _Stale) -> None:
        last = self._attempts().get(name)
        if last is not None and last.mark == stale.mark and 0 <= time.time() - last.at < AGAIN_S:
            why = last.why or "it did not come to an end"
            self._say(name, f"{stale.why}; tuning it anew failed and is tried again after a day: {why}", logging.WARNING)
        elif on_battery():
            self._say(name, f"{stale.why}; it is tuned anew once the device is not on battery", logging.WARNING)
        else:
            self._say(name, f"{stale.why}; it is being tuned anew", logging.INFO)
            self._note(name, _Attempt(stale.mark, time.time()))
            why = self._run(name, self._settings.engines.retune_budget_s)
            if not self._rounds.stopping and (why or name in self._look()):
                why = why or "the new tuning does not count either"
                self._note(name, _Attempt(stale.mark, time.time(), why))
                self._say(name, f"{stale.why}; tuning it anew failed and is tried again after a day: {why}", logging.WARNING)
            else:
                self._note(name, None)

    def _run(self, name: str, budget_s: float) -> str:
        """Tune in a process of its own; why that failed, or nothing."""
        wish = ["--policy", self._settings.engines.policy, "--budget", f"{budget_s:g}", "--config", str(self._path), "--background"]
        command = [sys.executable, "-m", "agent.cli", "tune", name, *wish]
        ends = time.monotonic() + LONGEST_S
        try:
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
                while True:
                    try:
                        told = process.communicate(timeout=0.2)[1].decode(errors="replace")
                        break
                    except subprocess.TimeoutExpired:
                        if self._rounds.stopping or time.monotonic() > ends:
                            process.terminate()
        except OSError as error:
            return f"it could not be started ({error})"
        if time.monotonic() > ends:
            return f"it took more than {LONGEST_S:.0f} s"
        return (" ".join(told.split())[-SAID:] or f"it ended with code {process.returncode}") if process.returncode else ""

    def _say(self, name: str, why: str, level: int) -> None:
        """In the log, once, and as the reason for the model's engine."""
        if self._told.get(name) != why:
            self._told[name] = why
            log.log(level, "%s: %s", name, why)
        for found, model in _models():
            if found == name:
                model.why = why

    def _attempts(self) -> dict[str, _Attempt]:
        try:
            return {name: _Attempt(**attempt) for name, attempt in json.loads(self._record.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            log.warning("%s is damaged and does not count", self._record)
            return {}

    def _note(self, name: str, attempt: _Attempt | None) -> None:
        kept = {one: asdict(other) for one, other in self._attempts().items() if one != name}
        with replacing(self._record) as temporary:
            temporary.write_text(json.dumps(kept if attempt is None else {**kept, name: asdict(attempt)}))


def on_battery() -> bool:
    """Whether the device says that it runs on one."""
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    return battery is not None and battery.power_plugged is False


def _models() -> Iterator[tuple[str, Model]]:
    """Those in use, which stay open within, by the names that the settings have for them."""
    with ExitStack() as opened:
        kits: list[FaceKit | ClassifierKit] = [*face_kit.open_kits(), *classifier_kit.open_kits()]
        for kit in kits:
            opened.callback(kit.close)
        for kit in kits:
            yield from kit.models.items()
