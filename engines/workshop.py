"""From a card to engines: fetched, converted, built as settings and tuning say, and judged."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engines.available import choose_backend
from engines.backends.base import Build
from engines.base import Engine, EngineError
from engines.building import built_by
from engines.calibrated import Calibration, find_sound
from engines.calibrated import find as find_calibration
from engines.card import Format, ModelCard
from engines.convert import converted, outstanding, route
from engines.fetch import Progress, ensure, ensure_asset, quiet
from engines.files import size as bytes_of
from engines.fit import decoder_params, fitting, require_fit
from engines.parity import Judge, against_fp32, classifier_judge, detector_judge, embedder_judge, fetched, portraits
from engines.registry import DECODERS, resolve
from engines.room import require_room
from engines.stages import Stage, unsaid
from engines.store import EngineStore, Identity, Passport
from engines.tuning import Choice, Goal, Tuning, outdated, standing

log = logging.getLogger(__name__)


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

    @property
    def left_to_tuner(self) -> bool:
        """Whether nothing is asked for by name."""
        return (self.backend, self.unit, self.precision, self.threads) == ("auto", "auto", "auto", None)


class Workshop:
    """Fetches and converts one card's model, chooses backend, unit and precision, and opens engines of given input sizes.

    Where nothing is asked for by name, what the tuner found here is taken; without a tuning, the first backend that reads the model.
    `choice` goes before all that. `why` is what the choice was made by, in one sentence; `tuning`: the tuner's, where it was that.
    """

    def __init__(self, card: ModelCard, options: EngineOptions, choice: Choice | None = None) -> None:
        self.card = card
        self.options = options
        self.recipe = recipe(card)
        self._outputs = decoder_params(card).outputs
        self.why = ""
        self.tuning: Tuning | None = None
        self._fetched = ensure(card, options.models_dir, options.progress)
        self.choice = choice or self._chosen()
        self.backend = choose_backend(card, self.choice.backend)
        if self.tuning is not None and self.choice.precision not in self._precisions():  # the file's own, which runs as it is
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
            if self.tuning is None or self.choice.precision == "fp32":
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

    def _chosen(self) -> Choice:
        """Of settings and tuning; a tuning that no longer fits this device is told and left aside."""
        options = self.options
        wish = Choice(
            backend=options.backend,
            unit=options.unit,
            precision=options.precision,
            policy="throughput" if options.policy == "efficiency" else options.policy,
            threads=options.threads,
        )
        if not options.left_to_tuner:
            return self._told(self._with_unit(wish), "the settings ask for it")
        tuning, counts = standing(self.card, self.recipe, options.engines_dir, options.policy)
        if tuning is None:
            return self._told(self._with_unit(wish), f"nothing was compared here yet; to find the best, {self.card.advice('tune')}")
        if not counts:
            self.why = f"{outdated(tuning)}: {self.card.advice('tune')}"
            log.warning("%s: %s", self.card.name, self.why)
            return self._with_unit(wish)
        self.tuning = tuning
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
        find = find_calibration if self.choice.precision == "int8" and self.tuning is None else find_sound
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
            build=built_by(self.backend, tuple(name for name, _ in route(self.card, self.backend.formats))),
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
            raise EngineError(f"{self.card.name}: int8 needs a calibration: {self.card.advice('calibrate', '--frames DIR')}")
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
