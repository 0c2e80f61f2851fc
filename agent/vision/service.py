"""The vision process as a whole: streams, their tasks, and what the control API may ask of them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.datatypes import Annotation, Event, StreamHealth
from agent.errors import AlmenaError, SettingsError, UnknownError
from agent.model_names import unusable
from agent.outbox import Outbox, OutboxError
from agent.registry import SOURCES, TASKS, resolve
from agent.remote import Effective, Wish, effective, laid_over
from agent.settings import Settings, StreamSettings
from agent.vision.base import Task
from agent.vision.erasure import Housekeeping
from agent.vision.event_pictures import EventPictures
from agent.vision.face_control import FaceControl
from agent.vision.inference.models import Serving
from agent.vision.interrupted import end_interrupted
from agent.vision.loading import PULSE
from agent.vision.pipeline import Pipeline
from agent.vision.preview import Preview
from agent.vision.retuning import Retuning
from agent.vision.running_source import STOP_TIMEOUT_S
from agent.vision.sightings import Sightings
from agent.vision.study_control import StudyControl
from engines.base import EngineError

log = logging.getLogger(__name__)

RETRY_S = (2.0, 5.0, 15.0, 60.0)
STORES_WITHIN_S = 600.0
"""So long storing may fail for another reason than a disk that is full or read-only."""
AT_START_ONLY = ("device", "state_dir", "dicom", "identity", "mqtt", "hub", "web")
"""Sections of the settings that both processes read only when they start."""
OF_MODELS = ("engines", "gallery")
"""Sections that concern every stream; of `streams` and `serving` only what changes starts anew."""


class Stream:
    """One configured stream: starts its pipeline, and tries again for ever when its models cannot be loaded."""

    def __init__(
        self, config: StreamSettings, settings: Settings, outbox: Outbox, sightings: Sightings, pictures: EventPictures | None
    ) -> None:
        self.config = config
        self.preview = Preview(config.name, settings.web.preview_per_second, settings.web.preview_width)
        self.pipeline: Pipeline | None = None
        self.progress_ns = time.monotonic_ns()
        self._settings = settings
        self._outbox = outbox
        self._sightings = sightings
        self._pictures = pictures
        self._health = StreamHealth(config.name, "connecting")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._bring_up, name=f"start-{config.name}", daemon=True)

    @property
    def ended(self) -> bool:
        """A finite source whose every event is committed."""
        return self.pipeline is not None and self.pipeline.ended

    def start(self) -> None:
        """Load models and begin, in the background."""
        self._thread.start()

    def interrupt(self) -> None:
        """Begin to stop; waits for nothing."""
        self._stopping.set()
        if self.pipeline:
            self.pipeline.interrupt()

    def stop(self, until: float) -> None:
        """End open tracks and free everything. What does not answer until `until` (monotonic), a camera or models that are being loaded,
        is left behind on its thread; models are freed once they are there."""
        self.interrupt()
        if self._thread.is_alive():
            self._thread.join(max(0.0, until - time.monotonic()))
            if self._thread.is_alive():
                log.warning("%s: its models are still being loaded; that is left behind", self.config.name)
        if self.pipeline:
            self.pipeline.stop(until)

    def health(self) -> StreamHealth:
        """The source's health, or why there is no pipeline yet."""
        return self.pipeline.health() if self.pipeline else self._health

    @property
    def stuck_for_s(self) -> float:
        """Seconds without progress; of models that are loaded, beyond what one step may take."""
        if self.pipeline is None:
            return PULSE.overdue_s(self.progress_ns / 1e9)
        return 0.0 if self.ended else (time.monotonic_ns() - self.progress_ns) / 1e9

    def _bring_up(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            self._progress()
            try:
                self._run()
                return
            except BaseException as error:  # a supervisor: whatever a plug-in or a library raises is told, and tried again
                expected = isinstance(error, (AlmenaError, EngineError, OSError))
                reason = str(error) if expected else f"{type(error).__name__}: {error}"
                if reason != self._health.detail and not self._stopping.is_set():
                    log.error("%s: cannot start: %s", self.config.name, reason, exc_info=None if expected else error)
                    self._report(reason)
                self._health = StreamHealth(self.config.name, "failed", "TASK_FAILED", reason)
            self._stopping.wait(RETRY_S[min(attempt, len(RETRY_S) - 1)])
            attempt += 1

    def _run(self) -> None:
        with ExitStack() as loaded:
            source = resolve(SOURCES, self.config.source.type, "source")(self.config.source, self.config.name)
            source.prepare(self._settings)
            tasks: list[Task] = []
            for config in self.config.tasks:
                tasks.append(resolve(TASKS, config.type, "task")(config, self.config.name, self._settings))
                loaded.callback(tasks[-1].close)
            more = {"on_stored": self._pictures.offer} if self._pictures else {}
            pipeline = Pipeline(source, tuple(tasks), self._outbox, self.preview, self._progress, self._sightings, **more)
            if not self._stopping.is_set():
                self._progress()
                pipeline.start()
                self.pipeline = pipeline
                loaded.pop_all()
                if self._stopping.is_set():
                    pipeline.interrupt()

    def _progress(self) -> None:
        self.progress_ns = time.monotonic_ns()

    def _report(self, detail: str) -> None:
        data = {"state": "failed", "code": "TASK_FAILED", "detail": detail}
        try:
            self._outbox.append("event", [Event(self.config.name, "stream", data, time.time(), time.monotonic_ns())])
        except OutboxError as error:
            log.error("%s: the failure could not be stored: %s", self.config.name, error)


class Vision:
    """Owns the streams. `path` is the settings file, read again by `reload`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.restart_needed: tuple[str, ...] = ()
        self._effective = effective(path)
        if self._effective.problem:
            log.error("%s", self._effective.problem)
        self.settings = self._effective.settings
        self._cards = _card_files(self.settings)
        self.outbox = Outbox.open(self.settings.outbox_dir, self.settings.device.name, self.settings.outbox)
        self._sightings = Sightings(self.settings.state_dir / "run" / "seen.json")
        self.pictures = EventPictures(self.settings, self.outbox) if EventPictures.allowed(self.settings) else None
        self.faces = FaceControl(self.settings, self.outbox)
        self.serving = Serving(self.settings)
        self.studies = StudyControl(self.settings)
        self._housekeeping = Housekeeping(self.settings, self.outbox, self._forget)
        self._retuning = Retuning(self.settings, path)
        self._streams = self._configured()

    def start(self) -> None:
        """End what a crash left open, then start every stream."""
        try:
            end_interrupted(self.outbox, self._sightings.left_behind())
        except OutboxError as error:
            log.error("tracks that were open could not be ended, the outbox declares their ends: %s", error)
        if self.pictures:
            self.pictures.start()
        with self._lock:
            self._start_streams(self._streams.values())
            self._housekeeping.start()
            self.serving.start()
            self._retuning.start()

    def stop(self) -> None:
        """Stop every stream and close the outbox."""
        with self._lock:
            self._retuning.stop()
            self.serving.close()
            self._stop_streams(self._streams.values())
            self._housekeeping.stop()
            self.faces.close()
        if self.pictures:
            self.pictures.stop()
        self.outbox.close()

    def reload(self) -> bool:
        """Read the settings again; whether streams have started anew, because something that concerns them changed, be it in a card file.

        Changed sections that take a restart of the agent are named in `restart_needed`. Raises SettingsError, and then nothing changes.
        """
        found = effective(self._path)
        if found.problem and found.problem != self._effective.problem:
            log.error("%s", found.problem)
        return self._take(found)

    def try_out(self, wish: Wish) -> bool:
        """Take the sections that the hub wants until the next `reload` or start; otherwise as `reload`."""
        settings = laid_over(self._path, wish)
        if problems := unusable(settings):
            raise SettingsError("\n".join(problems))
        return self._take(Effective(settings, wish))

    def in_force(self) -> dict[str, Any]:
        """See Effective.summary."""
        return replace(self._effective, settings=self.settings).summary()

    def restart(self, name: str) -> None:
        """Start one stream anew, with its models and its source. Raises UnknownError."""
        with self._lock:
            old = self._stream(name)
            old.interrupt()
            old.stop(time.monotonic() + STOP_TIMEOUT_S)
            self._streams[name] = self._made(old.config)
            self._streams[name].preview = old.preview
            self._streams[name].start()

    def tune(self, model: str | None, budget_s: float | None) -> dict[str, Any]:
        """See Retuning.ask."""
        return self._retuning.ask(model, budget_s)

    def tuning(self) -> dict[str, Any]:
        """See Retuning.state."""
        return self._retuning.state()

    def _take(self, found: Effective) -> bool:
        with self._lock:
            old, in_force = self.settings, {name: getattr(self.settings, name) for name in AT_START_ONLY}
            self.restart_needed = tuple(name for name in AT_START_ONLY if getattr(found.settings, name) != in_force[name])
            settings, cards = found.settings.model_copy(update=in_force), _card_files(found.settings)
            models = cards != self._cards or any(getattr(settings, name) != getattr(old, name) for name in OF_MODELS)
            same = not models and (settings.streams, settings.serving) == (old.streams, old.serving)
            try:
                serving = self.serving if same else Serving(settings)
            except EngineError as error:
                raise SettingsError(str(error)) from error
            self._effective, self.settings, self._cards = found, settings, cards
            self.outbox.limit(settings.outbox)
            if same:
                return False
            self._begin_anew(
                {} if models else {name: one for name, one in self._streams.items() if one.config in settings.streams}, serving
            )
        return True

    def _begin_anew(self, kept: dict[str, Stream], serving: Serving) -> None:
        """Everything but the streams in `kept`, by the settings that are there now."""
        self._retuning.stop()
        self.serving.close()
        self._stop_streams([stream for name, stream in self._streams.items() if name not in kept])
        self._housekeeping.stop()
        self.faces.close()
        self.faces = FaceControl(self.settings, self.outbox)
        self._housekeeping = Housekeeping(self.settings, self.outbox, self._forget)
        self._streams = self._configured() | kept
        self.serving = serving
        self._retuning = Retuning(self.settings, self._path)
        self._start_streams([stream for name, stream in self._streams.items() if name not in kept])
        self._housekeeping.start()
        self.serving.start()
        self._retuning.start()

    @property
    def ended(self) -> bool:
        """Every stream is finite and at its end."""
        return all(stream.ended for stream in self._streams.values())

    @property
    def stuck_for_s(self) -> float:
        """Seconds since the slowest stream made progress, or since nothing can be stored; of what may take long, those beyond that."""
        storing_s = self.outbox.failing_for_s
        if storing_s:
            self.outbox.tidy()  # maybe nobody else tries, because nothing happens
        streams = (stream.stuck_for_s for stream in list(self._streams.values()))
        return max(storing_s - STORES_WITHIN_S, self.serving.stuck_for_s, *streams)

    def streams(self) -> list[StreamHealth]:
        """How each stream is doing."""
        return [stream.health() for stream in self._streams.values()]

    def preview(self, stream: str) -> Preview:
        """The live picture of a stream. Raises UnknownError."""
        return self._stream(stream).preview

    def annotations(self, stream: str) -> tuple[Annotation, ...]:
        """What is drawn over the newest frame. Raises UnknownError."""
        pipeline = self._stream(stream).pipeline
        return tuple(annotation for task in pipeline.tasks for annotation in task.annotations) if pipeline else ()

    def metrics(self) -> dict[str, dict[str, float]]:
        """Stage latencies and counters of each stream."""
        return {name: stream.pipeline.metrics() for name, stream in self._streams.items() if stream.pipeline}

    def engines(self) -> list[dict[str, Any]]:
        """Passports of the engines in use, each once."""
        found = [
            passport
            for stream in self._streams.values()
            if stream.pipeline
            for task in stream.pipeline.tasks
            for passport in task.engines()
        ]
        return list({(passport["model"], passport["backend"], passport["precision"]): passport for passport in found}.values())

    def _forget(self) -> None:
        if self.pictures:
            self.pictures.forget()
        for stream in list(self._streams.values()):
            if stream.pipeline:
                stream.pipeline.forget()

    def _stream(self, name: str) -> Stream:
        try:
            return self._streams[name]
        except KeyError:
            raise UnknownError(f"there is no stream {name!r}") from None

    def _configured(self) -> dict[str, Stream]:
        if self.settings.idle:
            log.warning("%s", self.settings.idle)
        return {config.name: self._made(config) for config in self.settings.streams}

    def _made(self, config: StreamSettings) -> Stream:
        return Stream(config, self.settings, self.outbox, self._sightings, self.pictures)

    @staticmethod
    def _start_streams(streams: Iterable[Stream]) -> None:
        for stream in streams:
            stream.start()

    @staticmethod
    def _stop_streams(streams: Collection[Stream]) -> None:
        """All at once, within the time of one. Those that run are freed first: one whose models are being loaded has nothing open."""
        until = time.monotonic() + STOP_TIMEOUT_S
        for stream in streams:
            stream.interrupt()
        for stream in sorted(streams, key=lambda stream: stream.pipeline is None):
            stream.stop(until)


def _card_files(settings: Settings) -> dict[str, bytes | None]:
    """What the card files hold that tasks and serving name; None of one that cannot be read."""
    named = [value for stream in settings.streams for task in stream.tasks for value in task.model_dump().values()]
    named += [model.card for model in settings.serving.models]
    files = sorted({name for name in named if isinstance(name, str) and name.endswith((".yaml", ".yml"))})
    return {name: Path(name).read_bytes() if Path(name).is_file() else None for name in files}
