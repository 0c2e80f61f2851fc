"""Models that are ready to use: pre-processing, engine and decoder in one."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.available import choose_backend
from engines.available import installed as installed
from engines.backends.base import IMAGE, Build
from engines.base import Engine, EngineError
from engines.calibrated import Calibration, find_sound
from engines.calibrated import find as find_calibration
from engines.card import Format, ModelCard, card_for
from engines.convert import converted, outstanding
from engines.decoders.base import DetectionDecoder
from engines.decoders.classification import ClassificationDecoder
from engines.decoders.embedding import EmbeddingDecoder
from engines.fetch import Progress, ensure, ensure_asset, quiet
from engines.files import size as bytes_of
from engines.fit import decoder_params, fitting, require_fit
from engines.kept import Shelf
from engines.parity import Judge, against_fp32, classifier_judge, detector_judge, embedder_judge, fetched, portraits
from engines.preprocess import Image, Letterbox, aligned, best_size, fed
from engines.registry import DECODERS, resolve
from engines.results import F32, Classification, Detections, Embeddings
from engines.room import require_room
from engines.stages import Stage, unsaid
from engines.store import EngineStore, Identity, Passport
from engines.tuning import Choice, Goal, fingerprint
from engines.tuning import find as find_tuning

log = logging.getLogger(__name__)

BATCH = 4
"""Faces that an embedder's second engine takes at once: about half the time for each (bf16 with AMX), so three are worth a call of four."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How models are run. `threads`: processor threads that an engine may use; None: all. `stage` hears what is being done."""

    models_dir: Path
    engines_dir: Path
    backend: str = "auto"
    precision: str = "auto"
    policy: Goal = "throughput"
    threads: int | None = None
    unit: str = "auto"
    progress: Progress = quiet
    stage: Stage = unsaid


class FaceDetector:
    """Finds faces. Thread-safe; `engine.parallel` calls at once are best.

    `engine` and `passport` are those of the card's first input size; pictures of other shapes get engines of the sizes that fit them,
    which are built at their first use.
    """

    def __init__(self, workshop: Workshop, threshold: float | None = None) -> None:
        self.card = workshop.card
        self.why = workshop.why
        self.threshold = threshold or self.card.thresholds.score
        self._workshop = workshop
        self._others = Shelf(lambda size: self._opened(size)[::2])
        self._first = self.card.input.sizes[0]
        self.engine, self.passport, self._decoder = self._opened(self._first)

    def detect(self, image: Image, threshold: float | None = None) -> Detections:
        """Faces in `image`, (H, W, 3) uint8 BGR, in its pixels. Raises EngineError; a failure is never an empty result.

        `threshold`: their least score, instead of that of the detector.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise EngineError(f"{self.card.name}: a picture must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        size = best_size(image.shape[1], image.shape[0], self.card.input.sizes)
        usual = nullcontext((self.engine, self._decoder))
        with usual if size == self._first else self._others.using(size) as (engine, decoder):
            placed, least = Letterbox.of(image, decoder.width, decoder.height), threshold or self.threshold or 0.0
            found = engine.read(
                {IMAGE: lambda canvas: placed.draw(image, canvas[0], self.card.input.pad)},
                lambda outputs: decoder.decode(outputs, least),
                decoder.picked,
            )
        if not len(found):
            return found
        if not np.isfinite(found.boxes).all() or not np.isfinite(found.landmarks).all():
            raise engine.not_finite(", ".join(decoder.picked))
        boxes = placed.to_picture(found.boxes.reshape(-1, 2, 2)).reshape(-1, 4)
        return Detections(boxes, found.scores, placed.to_picture(found.landmarks))

    def close(self) -> None:
        """Free all engines."""
        self._others.close()
        self.engine.close()

    def _opened(self, size: tuple[int, int]) -> tuple[Engine, Passport, DetectionDecoder]:
        kind = resolve(DECODERS, self.card.decoder.name, "decoder")
        decoder: DetectionDecoder = kind(kind.Params(**self.card.decoder.params), size[1], size[0])
        engine, passport = self._workshop.open(size, judge_of(self.card, size, self._workshop.options.models_dir))
        return engine, passport, decoder


class FaceEmbedder:
    """Turns aligned faces into templates. Thread-safe; `engine.parallel` calls at once are best. They are bound to `model_id`.

    `engine` and `passport` are for one face at a time; three and more faces go through an engine for BATCH faces.
    """

    def __init__(self, workshop: Workshop) -> None:
        self.card = workshop.card
        self.why = workshop.why
        self.model_id = self.card.model_id
        assert self.card.alignment is not None
        self._template = np.array(self.card.alignment.template, np.float32)
        self._size = self.card.input.sizes[0][0]
        kind = resolve(DECODERS, self.card.decoder.name, "decoder")
        self._decoder: EmbeddingDecoder = kind(kind.Params(**self.card.decoder.params))
        judge = judge_of(self.card, self.card.input.sizes[0], workshop.options.models_dir)
        self.engine, self.passport = workshop.open(self.card.input.sizes[0], judge)
        self._several, _ = workshop.open(self.card.input.sizes[0], judge, BATCH)

    def chip(self, image: Image, landmarks: F32) -> Image:
        """The face with `landmarks` (5, 2), in pixels of `image`, as an upright (S, S, 3) chip. Raises ValueError where they coincide."""
        return aligned(image, landmarks, self._template, self._size)

    def embed(self, chips: Image) -> Embeddings:
        """Templates of chips (N, S, S, 3) uint8 BGR, row by row. Raises EngineError."""
        if chips.ndim != 4:
            raise EngineError(f"{self.card.name}: chips must be (N, {self._size}, {self._size}, 3) uint8, not {chips.shape}")
        rows = [np.zeros((0, self.engine.outputs[0].shape[-1] or 0), np.float32)]
        at = 0
        while at < len(chips):
            engine, size = (self._several, BATCH) if len(chips) - at >= BATCH - 1 else (self.engine, 1)
            batch = chips[at : at + size]
            full = batch if len(batch) == size else np.concatenate([batch, batch[-1:]])
            rows.append(self._decoder.decode(engine.infer({IMAGE: full}))[: len(batch)])
            at += size
        return Embeddings(np.concatenate(rows), self.model_id)

    def close(self) -> None:
        """Free the engines."""
        self.engine.close()
        self._several.close()


class Classifier:
    """Says which class pictures are of. Thread-safe; `engine.parallel` calls at once are best. `batch` pictures go in at once."""

    def __init__(self, workshop: Workshop, batch: int = 1) -> None:
        self.card = workshop.card
        self.why = workshop.why
        self.batch = batch
        self._width, self._height = self.card.input.sizes[0]
        kind = resolve(DECODERS, self.card.decoder.name, "decoder")
        self._decoder: ClassificationDecoder = kind(kind.Params(**self.card.decoder.params))
        judge = judge_of(self.card, self.card.input.sizes[0], workshop.options.models_dir)
        self.engine, self.passport = workshop.open(self.card.input.sizes[0], judge, batch)

    def classify(self, images: Sequence[Image]) -> Classification:
        """Probabilities for pictures, (H, W, 3) uint8 BGR or (H, W) grey, of any size each. Raises EngineError."""
        return self.read([self.fit(image) for image in images])

    def fit(self, image: Image) -> Image:
        """A picture as the engine takes it, (height, width, channels) uint8. Raises EngineError."""
        return fed(image, self.card.input, self._width, self._height)

    def read(self, fitted: Sequence[Image]) -> Classification:
        """The same as `classify`, of pictures that `fit` made. Raises EngineError."""
        rows, maps = [np.zeros((0, len(self.card.labels)), np.float32)], []
        for start in range(0, len(fitted), self.batch):
            part = fitted[start : start + self.batch]
            outputs = self.engine.infer({IMAGE: np.stack([*part, *[part[-1]] * (self.batch - len(part))])})
            rows.append(self._decoder.decode(outputs)[: len(part)])
            if (seen := self._decoder.maps(outputs)) is not None:
                maps.append(seen[: len(part)])
        return Classification(np.concatenate(rows), self.card.labels, np.concatenate(maps) if maps else None)

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()


class Workshop:
    """Fetches and converts one card's model, chooses backend, unit and precision, and opens engines of given input sizes.

    Where nothing is asked for by name, what the tuner found here is taken; without a tuning, the first backend that reads the model.
    `choice` goes before all that. `why` is what the choice was made by, in one sentence; `tuned`: whether by the tuner.
    """

    def __init__(self, card: ModelCard, options: EngineOptions, choice: Choice | None = None) -> None:
        self.card = card
        self.options = options
        self.recipe = recipe(card)
        self._outputs = decoder_params(card).outputs
        self.why = ""
        self.tuned = False
        self._fetched = ensure(card, options.models_dir, options.progress)
        self.choice = choice or self._chosen(card.input.sizes[0])
        self.backend = choose_backend(card, self.choice.backend)
        if self.tuned and self.choice.precision not in self._precisions():  # the file's own, which runs as it is
            self.choice = self.choice.model_copy(update={"precision": "fp32"})
        self.store = EngineStore(options.engines_dir, options.stage)

    def open(self, size: tuple[int, int], judge: Judge, batch: int = 1) -> tuple[Engine, Passport]:
        """The engine of input `size` (width, height) for `batch` pictures at once.

        Whatever is not FP32 is compared with it on two portraits; where those cannot be fetched, `auto` takes FP32. A tuning was judged
        at one size; at a size where its precision fails, FP32 is taken.
        """
        identity = self._identity(size, batch)
        if self._reduces() and not self.store.has(identity):
            self.fetch_portraits()
            identity = self._identity(size, batch)
        try:
            engine, passport = self.store.open(self.backend, identity, self.order(size, batch), fitting(self.card, judge))
            require_fit(self.card, engine)
            return engine, passport
        except EngineError as error:
            if not self.tuned or self.choice.precision == "fp32":
                raise
            log.warning("%s, %dx%d, batch %d runs at fp32 instead of %s: %s", self.card.name, *size, batch, self.choice.precision, error)
            reference = Workshop(self.card, self.options, self.choice.model_copy(update={"precision": "fp32"}))
            return reference.open(size, judge, batch)

    def require_room(self, size: tuple[int, int], batch: int) -> None:
        """Raise EngineError where what is still to be converted and built for that input does not fit into memory and disk here."""
        model, routes = outstanding(self.card, self._fetched, self.backend.formats)
        shape = batch, size[1], size[0], self.card.input.channels
        options = self.options
        require_room(self.card.name, bytes_of(model), routes, self.backend.name, shape, options.models_dir, options.engines_dir)

    def _chosen(self, size: tuple[int, int]) -> Choice:
        """Of settings and tuning; a tuning that no longer fits this device is told and left aside."""
        options = self.options
        wish = Choice(
            backend=options.backend,
            unit=options.unit,
            precision=options.precision,
            policy="throughput" if options.policy == "efficiency" else options.policy,
            threads=options.threads,
        )
        if (options.backend, options.unit, options.precision, options.threads) != ("auto", "auto", "auto", None):
            return self._told(self._with_unit(wish), "the settings ask for it")
        tuning = find_tuning(options.engines_dir, self.card.model_id, size, options.policy)
        if tuning is None:
            return self._told(self._with_unit(wish), f"nothing was compared here yet: `almena tune {self.card.name}` finds the best")
        if tuning.fingerprint != fingerprint(self.card, self.recipe, options.engines_dir, tuning.choice):
            self.why = (
                f"it was tuned on {tuning.tuned_at[:10]} for another runtime, driver, device, power mode or model, which no longer counts:"
                f" run `almena tune {self.card.name}`"
            )
            log.warning("%s: %s", self.card.name, self.why)
            return self._with_unit(wish)
        self.tuned = True
        return self._told(tuning.choice, tuning.why)

    def _told(self, choice: Choice, why: str) -> Choice:
        self.why = why
        log.info("%s runs on %s: %s", self.card.name, choice, why)
        return choice

    def _with_unit(self, wish: Choice) -> Choice:
        backend = choose_backend(self.card, wish.backend)
        units = backend.units()
        if not units:
            raise EngineError(f"{self.card.name}: {backend.name} finds nothing here to run on; `almena doctor` says why")
        if wish.unit != "auto" and wish.unit not in units:
            raise EngineError(f"{self.card.name}: {backend.name} has no {wish.unit} here; it has {', '.join(units)}")
        return wish.model_copy(update={"backend": backend.name, "unit": units[0] if wish.unit == "auto" else wish.unit})

    def _precisions(self) -> tuple[str, ...]:
        """What the backend can do, without int8 where the model is not calibrated."""
        able = self.backend.precisions(self.choice.unit)
        return able if self._calibrated() else tuple(precision for precision in able if precision != "int8")

    def _calibrated(self) -> tuple[Path, Calibration] | None:
        """A damaged one is an error only where int8 is asked for by name."""
        find = find_calibration if self.choice.precision == "int8" and not self.tuned else find_sound
        return find(self.card, self.recipe, self.options.engines_dir, self.backend.flavour_on(self.choice.unit))

    def _reduces(self) -> bool:
        wish = self.choice.precision
        return wish != "fp32" and (wish != "auto" or self._precisions()[0] != "fp32")

    def fetch_portraits(self) -> None:
        """What parity is judged on, or a warning that it cannot be."""
        try:
            for name in portraits():
                ensure_asset(name, self.options.models_dir, self.options.progress)
        except EngineError as error:
            log.warning("%s is left at FP32, because nothing else can be compared with it: %s", self.card.name, error)

    def _identity(self, size: tuple[int, int], batch: int) -> Identity:
        calibrated = self._calibrated() if self.choice.precision in ("auto", "int8") else None
        return Identity(
            model=self.card.model_id,
            recipe=self.recipe,
            calibration=calibrated[1].file_sha256[:12] if calibrated else "",
            pictures="portraits" if self._reduces() and fetched(self.options.models_dir) else "none",
            backend=self.backend.name,
            backend_version=self.backend.version(),
            unit=self.choice.unit,
            device=self.backend.device(self.choice.unit),
            shape=(batch, size[1], size[0]),
            precision=self.choice.precision,
            policy=self.choice.policy,
            threads=self.choice.threads,
            streams=self.choice.streams,
        )

    def order(self, size: tuple[int, int], batch: int) -> Callable[[str], Build]:
        """What gives the order to build for a precision; it raises EngineError where the model cannot be had for that."""

        name = f"{self.card.name} {size[0]}x{size[1]}" + (f" x {batch}" if batch > 1 else "")

        def build(precision: str) -> Build:
            model, model_format = self._model(precision)
            return Build(
                name=name,
                model=model,
                input=self.card.input,
                batch=batch,
                width=size[0],
                height=size[1],
                precision=precision,
                policy=self.choice.policy,
                threads=self.choice.threads,
                format=model_format,
                unit=self.choice.unit,
                streams=self.choice.streams,
                outputs=self._outputs,
            )

        return build

    def _model(self, precision: str) -> tuple[Path, Format]:
        if precision != "int8":
            return converted(self.card, self._fetched, self.backend.formats, self.options.stage)
        calibrated = self._calibrated()
        if calibrated is None:
            raise EngineError(f"{self.card.name}: int8 needs a calibration: run `almena calibrate {self.card.name} --frames DIR`")
        return calibrated[0], "onnx"


def recipe(card: ModelCard) -> str:
    """Digest of how a card's model is fed and converted, and of what it is allowed to lose."""
    parts = [card.input.model_dump_json(), card.allowance.model_dump_json(), str(card.converter), *decoder_params(card).outputs]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def judge_of(card: ModelCard, size: tuple[int, int], models_dir: Path) -> Judge:
    """What compares engines of that card and input `size` (width, height) with FP32, on the portraits in `models_dir`."""
    kind = resolve(DECODERS, card.decoder.name, "decoder")
    params = kind.Params(**card.decoder.params)
    if card.task == "face-detection":
        return against_fp32(detector_judge(card, kind(params, size[1], size[0]), models_dir))
    return against_fp32((embedder_judge if card.task == "face-embedding" else classifier_judge)(card, kind(params), models_dir))


def load_detector(name: str, options: EngineOptions, threshold: float | None = None) -> FaceDetector:
    """The detector of card `name`, fetched, built and checked as needed. Detections below `threshold` (default: the card's) are left out.

    Raises EngineError, of which FetchError, WrongHashError, ModelFileError and MissingRuntimeError are kinds.
    """
    return FaceDetector(Workshop(card_for(name, "face-detection"), options), threshold)


def load_embedder(name: str, options: EngineOptions) -> FaceEmbedder:
    """The embedder of card `name`, fetched, built and checked as needed. Raises EngineError as load_detector does."""
    return FaceEmbedder(Workshop(card_for(name, "face-embedding"), options))


def load_classifier(name: str, options: EngineOptions, batch: int = 1) -> Classifier:
    """The classifier of card `name`, fetched, built and checked as needed. Raises EngineError as load_detector does."""
    return Classifier(Workshop(card_for(name, "classification"), options), batch)
