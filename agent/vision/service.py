"""The vision process as a whole: streams, their tasks, and what the control API may ask of them."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from agent import settings as settings_module
from agent.datatypes import Annotation, Event, StreamHealth
from agent.errors import AlmenaError, UnknownError
from agent.outbox import Outbox, OutboxError
from agent.registry import SOURCES, TASKS, resolve
from agent.settings import Settings, StreamSettings
from agent.vision.base import Task
from agent.vision.erasure import Housekeeping
from agent.vision.face_control import FaceControl
from agent.vision.inference.models import Serving
from agent.vision.interrupted import end_interrupted
from agent.vision.pipeline import Pipeline
from agent.vision.preview import Preview
from agent.vision.study_control import StudyControl
from engines.base import EngineError

log = logging.getLogger(__name__)

RETRY_S = (2.0, 5.0, 15.0, 60.0)
AT_START_ONLY = ("device", "state_dir", "dicom", "outbox", "mqtt", "web", "telemetry")
"""Sections of the settings that both processes read only when they start."""


class Stream:
    """One configured stream: starts its pipeline, and tries again for ever when its models cannot be loaded."""

    def __init__(self, config: StreamSettings, settings: Settings, outbox: Outbox) -> None:
        self.config = config
        self.preview = Preview(config.name, settings.web.preview_per_second, settings.web.preview_width)
        self.pipeline: Pipeline | None = None
        self.progress_ns = time.monotonic_ns()
        self._settings = settings
        self._outbox = outbox
        self._health = StreamHealth(config.name, "connecting")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._bring_up, name=f"start-{config.name}")

    @property
    def ended(self) -> bool:
        """A finite source whose every event is committed."""
        return self.pipeline is not None and self.pipeline.ended

    def start(self) -> None:
        """Load models and begin, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """End open tracks and free everything."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        if self.pipeline:
            self.pipeline.stop()

    def health(self) -> StreamHealth:
        """The source's health, or why there is no pipeline yet."""
        return self.pipeline.health() if self.pipeline else self._health

    def _bring_up(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            try:
                self._run()
                return
            except Exception as error:  # a supervisor: whatever a plug-in or a library raises is told, and tried again
                expected = isinstance(error, (AlmenaError, EngineError, OSError))
                reason = str(error) if expected else f"{type(error).__name__}: {error}"
                if reason != self._health.detail:
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
            pipeline = Pipeline(source, tuple(tasks), self._outbox, self.preview, self._progress)
            if not self._stopping.is_set():
                self._progress()
                pipeline.start()
                self.pipeline = pipeline
                loaded.pop_all()

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
        self.settings = settings_module.load(path)
        self._cards = _card_files(self.settings)
        self.outbox = Outbox.open(self.settings.outbox_dir, self.settings.device.name, self.settings.outbox)
        self.faces = FaceControl(self.settings, self.outbox)
        self.serving = Serving(self.settings)
        self.studies = StudyControl(self.settings)
        self._housekeeping = Housekeeping(self.settings, self.outbox, self._forget)
        self._streams = self._configured()

    def start(self) -> None:
        """End what a crash left open, then start every stream."""
        try:
            end_interrupted(self.outbox)
        except OutboxError as error:
            log.error("tracks that were open could not be ended, the outbox declares their ends: %s", error)
        with self._lock:
            self._start_streams()
            self._housekeeping.start()
            self.serving.start()

    def stop(self) -> None:
        """Stop every stream and close the outbox."""
        with self._lock:
            self.serving.close()
            self._stop_streams()
            self._housekeeping.stop()
            self.faces.close()
        self.outbox.close()

    def reload(self) -> bool:
        """Read the settings again; streams start anew when something that concerns them changed, be it in a card file that they name.

        Changed sections that take a restart of the agent are named in `restart_needed`. Raises SettingsError, and then nothing changes.
        """
        settings = settings_module.load(self._path)
        with self._lock:
            in_force = {name: getattr(self.settings, name) for name in AT_START_ONLY}
            self.restart_needed = tuple(name for name in AT_START_ONLY if getattr(settings, name) != in_force[name])
            settings = settings.model_copy(update=in_force)
            cards = _card_files(settings)
            if settings == self.settings and cards == self._cards:
                return False
            self._cards = cards
            self.serving.close()
            self._stop_streams()
            self._housekeeping.stop()
            self.faces.close()
            self.settings, self.faces = settings, FaceControl(settings, self.outbox)
            self._housekeeping = Housekeeping(settings, self.outbox, self._forget)
            self._streams = self._configured()
            self.serving = Serving(settings)
            self._start_streams()
            self._housekeeping.start()
            self.serving.start()
        return True

    @property
    def ended(self) -> bool:
        """Every stream is finite and at its end."""
        return all(stream.ended for stream in self._streams.values())

    @property
    def stuck_for_s(self) -> float:
        """Seconds since the running stream that is slowest to make progress made any; what the watchdog looks at. A stream whose models
        are still being fetched or built does not count."""
        running = [stream for stream in self._streams.values() if stream.pipeline and not stream.ended]
        oldest = min((stream.progress_ns for stream in running), default=time.monotonic_ns())
        return (time.monotonic_ns() - oldest) / 1e9

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
        for stream in list(self._streams.values()):
            if stream.pipeline:
                stream.pipeline.forget()

    def _stream(self, name: str) -> Stream:
        try:
            return self._streams[name]
        except KeyError:
            raise UnknownError(f"there is no stream {name!r}") from None

    def _configured(self) -> dict[str, Stream]:
        return {config.name: Stream(config, self.settings, self.outbox) for config in self.settings.streams}

    def _start_streams(self) -> None:
        for stream in self._streams.values():
            stream.start()

    def _stop_streams(self) -> None:
        for stream in self._streams.values():
            stream.stop()


def _card_files(settings: Settings) -> dict[str, bytes | None]:
    """What the card files hold that tasks and serving name; None of one that cannot be read."""
    named = [value for stream in settings.streams for task in stream.tasks for value in task.model_dump().values()]
    named += [model.card for model in settings.serving.models]
    files = sorted({name for name in named if isinstance(name, str) and name.endswith((".yaml", ".yml"))})
    return {name: Path(name).read_bytes() if Path(name).is_file() else None for name in files}
