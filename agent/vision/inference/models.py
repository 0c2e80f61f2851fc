"""Which models are served, and in what state each is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from agent.serving_settings import ServedModelSettings
from agent.settings import Settings
from agent.vision.classifier_kit import ClassifierKit
from agent.vision.face_kit import FaceKit, engine_options
from agent.vision.inference.batcher import Batcher, Sized
from agent.vision.inference.signature import PROBABILITIES, InferenceError, Outputs, Signature
from agent.vision.loading import PULSE
from agent.vision.pictures import PictureError, decode
from engines.card import ModelCard, card
from engines.decoders.classification import ClassificationDecoder
from engines.errors import EngineError
from engines.model import Workshop, judge_of
from engines.preprocess import fed
from engines.registry import DECODERS, resolve
from engines.store import Passport

log = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed", "closed"]
LOOK_S = 1.0
"""How often a stream's model is looked for."""
RETRY_S = 60.0
CLOSE_S = 1.0
TEMPLATES = "its outputs are face templates, which are biometric data: set `serving.templates: true` if they may be had over HTTP"


@dataclass(frozen=True, slots=True)
class Running:
    """A model that answers. `passports`: of the engines that it has by now."""

    signature: Signature
    batcher: Batcher
    decoder: ClassificationDecoder | None
    passports: Callable[[], tuple[Passport, ...]]

    def complete(self, outputs: Outputs, wanted: tuple[str, ...]) -> Outputs:
        """With a classifier's probabilities, where they are wanted."""
        if self.decoder is None or PROBABILITIES not in wanted:
            return outputs
        return {**outputs, PROBABILITIES: self.decoder.decode(outputs)}

    def fit(self, file: bytes) -> NDArray[np.uint8]:
        """A picture file as the model takes it. Raises InferenceError (400)."""
        shape = self.signature.picture
        try:
            image = decode(file)
            if self.signature.card.input.resize == "aligned":
                if image.shape != shape:
                    raise InferenceError(400, f"this model takes aligned pictures of {shape[1]}x{shape[0]}, which nothing is resized to")
                return image
            return fed(image, self.signature.card.input, shape[1], shape[0])
        except PictureError as error:
            raise InferenceError(400, str(error)) from error


Opened = tuple[tuple[Sized, ...], Callable[[], tuple[Passport, ...]]]


class Served:
    """One model, from the moment that the settings name it."""

    def __init__(self, settings: ServedModelSettings, source: Callable[[ModelCard, ExitStack], Opened | None], templates: bool) -> None:
        """`source` opens its engines and registers how they are given back; None: they are not there yet."""
        self.name = settings.name
        self.state: State = "loading"
        self.detail = ""
        self._settings = settings
        self._source = source
        self._templates = templates
        self._running: Running | None = None
        self._held = ExitStack()

    @property
    def running(self) -> Running:
        """Raises InferenceError, 503, where it is not ready; 403 where it may not be served."""
        running = self._running
        if running is None or self.state != "ready":
            if self.detail == TEMPLATES:
                raise InferenceError(403, f"model {self.name!r} is not served: {self.detail}")
            raise InferenceError(503, f"model {self.name!r} is {self.state}{': ' + self.detail if self.detail else ''}", 10)
        return running

    @property
    def version(self) -> str | None:
        """The card's that runs, or of the file where it can be read."""
        if running := self._running:
            return running.signature.version
        try:
            return card(self._settings.card).version
        except EngineError:
            return None

    def open(self) -> None:
        """Load, unless it is ready already. What goes wrong is kept as `detail`."""
        with ExitStack() as held:
            try:
                found = card(self._settings.card)
                if found.task == "face-embedding" and not self._templates:
                    self.state, self.detail = "failed", TEMPLATES
                    return
                opened = self._source(found, held)
                if opened is None:
                    return
                self._running = self._run(found, *opened)
            except (EngineError, OSError) as error:
                if str(error) != self.detail:
                    log.error("model %s cannot be served: %s", self.name, error)
                self.state, self.detail = "failed", str(error)
                return
            self._held = held.pop_all()
        self.state, self.detail = "ready", ""
        log.info("model %s is served", self.name)

    def close(self) -> None:
        """Answer what is under way, and give the engines back."""
        self.state = "closed"
        if self._running:
            self._running.batcher.close()
        self._held.close()

    def status(self) -> dict[str, Any]:
        """For the page and for metrics."""
        running = self._running
        found = {"name": self.name, "card": self._settings.card, "state": self.state, "detail": self.detail}
        if running is None:
            return found
        engines = [
            {"batch": passport.identity.shape[0], "backend": passport.identity.backend, "precision": passport.precision}
            for passport in running.passports()
        ]
        return {**found, "model": running.signature.card.model_id, "engines": engines, **running.batcher.metrics()}

    def _run(self, found: ModelCard, engines: tuple[Sized, ...], passports: Callable[[], tuple[Passport, ...]]) -> Running:
        decoder = None
        if found.labels:
            kind = resolve(DECODERS, found.decoder.name, "decoder")
            decoder = kind(kind.Params(**found.decoder.params))
        signature = Signature(self.name, found, engines[0].engine.outputs, self._settings.queue)
        batcher = Batcher(self.name, engines, self._settings.queue, self._settings.max_delay_ms / 1e3)
        return Running(signature, batcher, decoder, passports)


class Serving:
    """All served models. They are opened in the background; what cannot be opened is tried again."""

    def __init__(self, settings: Settings) -> None:
        self.timeout_s = settings.serving.timeout_s
        self._models = {model.name: model for model in _of_streams(settings)} if settings.serving.streams else {}
        for own in settings.serving.models:
            self._models[own.name] = Served(own, _own(settings, own), settings.serving.templates)
        self._closing = threading.Event()
        self._looked_at = time.monotonic()
        self._loader = threading.Thread(target=self._load, name="load-served", daemon=True)

    def start(self) -> None:
        """Begin to load."""
        self._loader.start()

    def close(self) -> None:
        """Answer what is under way, refuse the rest, and free everything. What takes longer than CLOSE_S is left behind on its thread, as a
        model that is being loaded: it is freed once it is there."""
        self._closing.set()
        freeing = threading.Thread(target=self._free, name="free-served", daemon=True)
        freeing.start()
        freeing.join(CLOSE_S)
        if freeing.is_alive():
            log.warning("served models are still being loaded, or at work; that is left behind")

    def model(self, name: str, version: str | None = None) -> Served:
        """Raises InferenceError (404)."""
        found = self._models.get(name)
        if found is None:
            served = ", ".join(sorted(self._models)) or "none"
            raise InferenceError(404, f"no model is served as {name[:100]!r}; there are: {served}")
        if version is not None and version != found.version:
            raise InferenceError(404, f"model {name!r} has no version {version[:40]!r}; it has {found.version}")
        return found

    @property
    def stuck_for_s(self) -> float:
        """Seconds without progress of the loading, beyond what one step may take."""
        return PULSE.overdue_s(self._looked_at) if self._loader.is_alive() else 0.0

    @property
    def ready(self) -> bool:
        """Every model that may be served is ready."""
        return all(model.state == "ready" or model.detail == TEMPLATES for model in self._models.values())

    def status(self) -> list[dict[str, Any]]:
        """Of every model."""
        return [model.status() for model in self._models.values()]

    def _free(self) -> None:
        if self._loader.ident is not None:
            self._loader.join()
        for model in self._models.values():
            model.close()

    def _load(self) -> None:
        tried: dict[str, int] = {}
        turn = 0
        while not self._closing.is_set():
            self._looked_at = time.monotonic()
            for name, model in self._models.items():
                failed = model.state == "failed" and turn - tried.get(name, 0) < RETRY_S / LOOK_S
                if model.state != "ready" and not failed and not self._closing.is_set():
                    tried[name] = turn
                    model.open()
            turn += 1
            self._closing.wait(LOOK_S)


def _own(settings: Settings, own: ServedModelSettings) -> Callable[[ModelCard, ExitStack], Opened | None]:
    """Engines for one picture, and for `batch` pictures at once."""

    def source(found: ModelCard, held: ExitStack) -> Opened:
        shop = Workshop(found, engine_options(settings))
        size = found.input.sizes[0]
        judge = judge_of(found, size, settings.models_dir)
        opened = []
        for batch in sorted({1, own.batch}):
            engine, passport = shop.open(size, judge, batch)
            held.callback(engine.close)
            opened.append((Sized(engine, batch, passport.speed.per_second), passport))
        passports = tuple(passport for _, passport in opened)
        return tuple(sized for sized, _ in opened), lambda: passports

    return source


def _of_streams(settings: Settings) -> list[Served]:
    """The models of tasks, with the very engines of the streams, once these have loaded them."""
    found: dict[str, Served] = {}
    for task in (task for stream in settings.streams for task in stream.tasks if task.type == "faces"):
        for name, part in ((task.detector, "detector"), (task.embedder, "embedder")):
            served = ServedModelSettings(name=card(name).name, card=name, batch=1, max_delay_ms=0)
            source = _of_kit(settings, task.detector, task.embedder, part)
            found.setdefault(served.name, Served(served, source, settings.serving.templates))
    for name in (task.model for stream in settings.streams for task in stream.tasks if hasattr(task, "model")):
        served = ServedModelSettings(name=card(name).name, card=name, batch=1, max_delay_ms=0)
        found.setdefault(served.name, Served(served, _of_classifier(settings, name), settings.serving.templates))
    return list(found.values())


def _of_classifier(settings: Settings, name: str) -> Callable[[ModelCard, ExitStack], Opened | None]:
    def source(_found: ModelCard, held: ExitStack) -> Opened | None:
        kit = ClassifierKit.opened(settings, name)
        if kit is None:
            return None
        held.callback(kit.close)
        return (Sized(kit.classifier.engine, 1, kit.classifier.passport.speed.per_second),), lambda: (kit.classifier.passport,)

    return source


def _of_kit(settings: Settings, detector: str, embedder: str, part: str) -> Callable[[ModelCard, ExitStack], Opened | None]:
    def source(_found: ModelCard, held: ExitStack) -> Opened | None:
        kit = FaceKit.opened(settings, detector, embedder)
        if kit is None:
            return None
        held.callback(kit.close)
        model = kit.detector if part == "detector" else kit.embedder
        return (Sized(model.engine, 1, model.passport.speed.per_second),), lambda: (model.passport,)

    return source
