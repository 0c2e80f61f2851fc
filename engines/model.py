"""Models that are ready to use: pre-processing, engine and decoder in one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np

from engines.available import installed as installed
from engines.backends.base import IMAGE
from engines.base import Engine, EngineError
from engines.card import card_for
from engines.decoders.base import DetectionDecoder
from engines.decoders.classification import ClassificationDecoder
from engines.decoders.embedding import EmbeddingDecoder
from engines.exchange import Exchangeable
from engines.kept import Shelf
from engines.preprocess import Image, Letterbox, aligned, best_size, fed, roomy
from engines.registry import DECODERS, resolve
from engines.results import F32, Classification, Detections, Embeddings
from engines.store import Passport
from engines.workshop import EngineOptions as EngineOptions
from engines.workshop import Workshop as Workshop
from engines.workshop import judge_of as judge_of
from engines.workshop import recipe as recipe

BATCH = 4
"""Faces that an embedder's second engine takes at once: about half the time for each (bf16 with AMX), so three are worth a call of four."""


class FaceDetector:
    """Finds faces. Thread-safe; `engine.parallel` calls at once are best.

    `engine` and `passport` are those of the card's first input size; pictures of other shapes get engines of the sizes that fit them,
    which are built at their first use. Each holds about 100 MB, so stills of all shapes share one.
    """

    def __init__(self, workshop: Workshop, threshold: float | None = None) -> None:
        self.card = workshop.card
        self.why = workshop.why
        self.threshold = threshold or self.card.thresholds.score
        self.workshop = workshop
        self._first = self.card.input.sizes[0]
        self._others = Shelf(lambda size: _detecting(self.workshop, size)[::2])
        engine, self.passport, self._decoder = _detecting(workshop, self._first)
        self.engine = Exchangeable(engine)

    def detect(self, image: Image, threshold: float | None = None, still: bool = False) -> Detections:
        """Faces in `image`, (H, W, 3) uint8 BGR, in its pixels. Raises EngineError; a failure is never an empty result.

        `threshold`: their least score, instead of that of the detector. `still`: a photograph, after which one of another shape may come.
        """
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise EngineError(f"{self.card.name}: a picture must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        size = best_size(image.shape[1], image.shape[0], self.card.input.sizes)
        if still:
            size = roomy(size, self.card.input.sizes)
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

    def renew(self) -> None:
        """Take up what settings and tuner say by now, while calls go on. Raises EngineError, and then all stays as it is."""
        workshop = Workshop(self.card, self.workshop.options)
        engine, self.passport, _ = _detecting(workshop, self._first)
        self.workshop, self.why = workshop, workshop.why
        self.engine.exchange(engine)
        self._others.clear()

    def close(self) -> None:
        """Free all engines."""
        self._others.close()
        self.engine.close()


def _detecting(workshop: Workshop, size: tuple[int, int]) -> tuple[Engine, Passport, DetectionDecoder]:
    """A detector's engine of that input size (width, height), and its decoder."""
    card = workshop.card
    kind = resolve(DECODERS, card.decoder.name, "decoder")
    decoder: DetectionDecoder = kind(kind.Params(**card.decoder.params), size[1], size[0])
    engine, passport = workshop.open(size, judge_of(card, size, workshop.options.models_dir))
    return engine, passport, decoder


class FaceEmbedder:
    """Turns aligned faces into templates. Thread-safe; `engine.parallel` calls at once are best. They are bound to `model_id`.

    `engine` and `passport` are for one face at a time; three and more faces go through an engine for BATCH faces.
    """

    def __init__(self, workshop: Workshop) -> None:
        self.card = workshop.card
        self.why = workshop.why
        self.workshop = workshop
        self.model_id = self.card.model_id
        assert self.card.alignment is not None
        self._template = np.array(self.card.alignment.template, np.float32)
        self._size = self.card.input.sizes[0][0]
        kind = resolve(DECODERS, self.card.decoder.name, "decoder")
        self._decoder: EmbeddingDecoder = kind(kind.Params(**self.card.decoder.params))
        engine, self.passport, several = self._opened(workshop)
        self.engine, self._several = Exchangeable(engine), Exchangeable(several)

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

    def renew(self) -> None:
        """Take up what settings and tuner say by now, while calls go on. Raises EngineError, and then all stays as it is."""
        workshop = Workshop(self.card, self.workshop.options)
        engine, self.passport, several = self._opened(workshop)
        self.workshop, self.why = workshop, workshop.why
        self.engine.exchange(engine)
        self._several.exchange(several)

    def close(self) -> None:
        """Free the engines."""
        self.engine.close()
        self._several.close()

    def _opened(self, workshop: Workshop) -> tuple[Engine, Passport, Engine]:
        """The engines for one face and for BATCH."""
        size = (self._size, self._size)
        judge = judge_of(self.card, size, workshop.options.models_dir)
        engine, passport = workshop.open(size, judge)
        try:
            return engine, passport, workshop.open(size, judge, BATCH)[0]
        except BaseException:
            engine.close()
            raise


class Classifier:
    """Says which class pictures are of. Thread-safe; `engine.parallel` calls at once are best. `batch` pictures go in at once."""

    def __init__(self, workshop: Workshop, batch: int = 1) -> None:
        self.card = workshop.card
        self.why = workshop.why
        self.batch = batch
        self._width, self._height = self.card.input.sizes[0]
        kind = resolve(DECODERS, self.card.decoder.name, "decoder")
        self._decoder: ClassificationDecoder = kind(kind.Params(**self.card.decoder.params))
        self.workshop = workshop
        engine, self.passport = self._opened(workshop)
        self.engine = Exchangeable(engine)

    def classify(self, images: Sequence[Image]) -> Classification:
        """Probabilities for pictures, (H, W, 3) uint8 BGR or (H, W) grey, of any size each. Raises EngineError."""
        return self.read([self.fit(image) for image in images])

    def fit(self, image: Image) -> Image:
        """A picture as the engine takes it, (height, width, channels) uint8. Raises EngineError."""
        return fed(image, self.card.input, self._width, self._height)

    def read(self, fitted: Sequence[Image]) -> Classification:
        """The same as `classify`, of pictures that `fit` made. Raises EngineError."""
        rows, maps, features = [np.zeros((0, len(self.card.labels)), np.float32)], [], []
        for start in range(0, len(fitted), self.batch):
            part = fitted[start : start + self.batch]
            outputs = self.engine.infer({IMAGE: np.stack([*part, *[part[-1]] * (self.batch - len(part))])})
            rows.append(self._decoder.decode(outputs)[: len(part)])
            if (seen := self._decoder.maps(outputs)) is not None:
                maps.append(seen[: len(part)])
            if (pooled := self._decoder.features(outputs)) is not None:
                features.append(pooled[: len(part)])
        extras = (np.concatenate(found) if found else None for found in (maps, features))
        return Classification(np.concatenate(rows), self.card.labels, *extras)

    def renew(self) -> None:
        """Take up what settings and tuner say by now, while calls go on. Raises EngineError, and then all stays as it is."""
        workshop = Workshop(self.card, self.workshop.options)
        engine, self.passport = self._opened(workshop)
        self.workshop, self.why = workshop, workshop.why
        self.engine.exchange(engine)

    def close(self) -> None:
        """Free the engine."""
        self.engine.close()

    def _opened(self, workshop: Workshop) -> tuple[Engine, Passport]:
        size = (self._width, self._height)
        return workshop.open(size, judge_of(self.card, size, workshop.options.models_dir), self.batch)


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
