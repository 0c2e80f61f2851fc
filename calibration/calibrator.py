"""From frames to INT8: samples, ranges, sensitivity, mixed precision, gate, record."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.errors import CalibrationError, SamplesError
from calibration.gate import Gate, Verdict, strict
from calibration.labels import Labelled, read_boxes, read_classes, read_labelled_pairs
from calibration.noise import decibels, measure_of, outputs, raw_noise
from calibration.quantise import Quantiser
from calibration.samples import MEANINGFUL, Samples, gather, normalised
from calibration.search import Search, reasons
from calibration.sensitivity import quantised_nodes, sensitivities
from calibration.stills import find_faces, largest
from calibration.turns import Turns, in_turns
from engines.available import installed
from engines.backends.base import IMAGE, Backend, Build
from engines.base import Engine, EngineError
from engines.calibrated import Calibration, Flavour, Ranges, place, save
from engines.card import ModelCard
from engines.convert import converted, outstanding
from engines.familiar import familiar
from engines.fetch import ensure, ensure_asset
from engines.files import scratch, sha256, size
from engines.model import EngineOptions, FaceDetector, judge_of, load_detector, recipe
from engines.parity import Judge, batches, portraits
from engines.preprocess import Image, aligned
from engines.registry import DECODERS, resolve
from engines.room import require_room

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

KINDS: tuple[Ranges, ...] = ("minmax", "percentile", "entropy")
MEASURED = 12
"""Samples on which ranges are compared."""
ONE_BY_ONE = 6
"""Of those, on how many nodes are measured."""
NODES_SHARE = 0.4
"""Of the budget, for the nodes one by one; the rest is for the search."""
Tell = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and the whole."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """`flavours`: empty for those that the backends here are fast with. `ranges`: None for those with the least noise.

    `budget_s`: how long, for each flavour, it is looked for what has to stay in float. `detector`: finds the faces for an embedder.
    """

    flavours: tuple[Flavour, ...] = ()
    ranges: Ranges | None = None
    samples: int = 96
    budget_s: float = 300.0
    detector: str = "centerface"


@dataclass(frozen=True, slots=True)
class Gates:
    """`choosing`: strictly, by the samples that nodes are chosen by; `verdict`: by those that nothing is chosen by. `again`: by the latter
    after a refusal, strictly, for from then on they take part in the choice."""

    choosing: Gate
    verdict: Gate
    again: Gate


@dataclass(frozen=True, slots=True)
class Outcome:
    """A calibrated model: its record, and by backend what the gate saw and how fast INT8 is against FP32."""

    calibration: Calibration
    verdicts: dict[str, Verdict]
    speed: dict[str, Turns]
    tried: tuple[tuple[int, str], ...]
    """Nodes left in float and why that was refused, before what is kept."""
    cut_short: str
    """What the budget left no time for; empty where it sufficed."""


class Calibrator:
    """Calibrates one card's model on this machine. Close it, or use it in a `with` block."""

    def __init__(self, card: ModelCard, options: EngineOptions, wishes: Wishes, tell: Tell = lambda what, done, total: None) -> None:
        """Fetches and converts the model and builds its FP32 engines. Raises EngineError."""
        self.card, self.options, self.wishes, self.tell = card, options, wishes, tell
        self._stack = ExitStack()
        try:
            self.folder = self._stack.enter_context(scratch(options.engines_dir / "calibration"))
            self.folder.mkdir()
            fetched = ensure(card, options.models_dir, options.progress)
            kind = resolve(DECODERS, card.decoder.name, "decoder")
            width, height = card.input.sizes[0]
            params = kind.Params(**card.decoder.params)
            self.decoder: Any = kind(params, height, width) if card.task == "face-detection" else kind(params)
            able = [backend for backend in installed(card) if "onnx" in backend.formats and backend.units()]
            self.backends = {backend.name: backend for backend in able if "int8" in backend.precisions(backend.units()[0])}
            if not self.backends:
                raise CalibrationError(
                    f"{card.name}: no runtime that computes in 8 bits is installed; `almena doctor` says what to install"
                )
            kept, routes = outstanding(card, fetched, ("onnx",))
            for name in self.backends:
                shape = 1, height, width, card.input.channels
                require_room(card.name, size(kept), routes, name, shape, options.models_dir, options.engines_dir)
            self.model = converted(card, fetched)[0]
            self.references = {name: self._engine(backend, self.model, "fp32") for name, backend in self.backends.items()}
            if less := {engine.precision for engine in self.references.values()} - {"fp32"}:
                raise CalibrationError(f"{card.name}: its file is {less.pop()} already, there is nothing to calibrate: it runs as it is")
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the engines and the temporary files."""
        self._stack.close()

    def run(self, frames: Iterable[Image], labels: Path | None = None) -> list[Outcome]:
        """Calibrate with `frames`, (H, W, 3) uint8 BGR, and keep what passes the gate in the engines' folder, one for each flavour.

        Raises SamplesError, LabelsError, RejectedError and other EngineErrors.
        """
        labelled = self._labelled(labels) if labels is not None else None
        samples = self._samples(frames, labelled)
        if labelled is None and len(samples) < MEANINGFUL:
            log.warning(
                "%s: the verdict is by %d pictures; only from %d samples on it does not hang on a single one",
                self.card.name, len(samples.verdict), MEANINGFUL,
            )  # fmt: skip
        quantiser = Quantiser(self.model, self.card.name)
        feeds = [normalised(picture, self.card.input) for picture in samples.ranges]
        quantiser.observe(feeds, lambda done, total: self.tell("ranges", done, total))
        portraits = self._portraits()
        first, second = (labelled.half(half) if labelled is not None else None for half in (False, True))
        gates = Gates(
            Gate(strict(self.card), self.decoder, samples.choices, first, portraits),
            Gate(self.card, self.decoder, samples.verdict, second, portraits),
            Gate(strict(self.card), self.decoder, samples.verdict, second, portraits),
        )
        flavours = self.wishes.flavours or tuple(
            dict.fromkeys(backend.flavour_on(backend.units()[0]) for backend in self.backends.values())
        )
        return [self._flavour(flavour, quantiser, samples, gates) for flavour in flavours]

    def _samples(self, frames: Iterable[Image], labelled: Labelled | None) -> Samples:
        card, reference = self.card, next(iter(self.references.values()))
        avoid = labelled.marks if labelled is not None else ()
        if card.task == "face-embedding":
            detector = self._detector()
            return gather(card, frames, self.wishes.samples, chips=lambda frame: self._chips(detector, frame), avoid=avoid)
        if card.task == "face-detection":
            threshold = card.thresholds.score

            def faces(picture: Image) -> bool:
                return bool(len(self.decoder.decode(reference.infer({IMAGE: picture[None]}), threshold)))

            return gather(card, frames, self.wishes.samples, faces=faces, avoid=avoid)
        samples = gather(card, frames, self.wishes.samples, avoid=avoid)
        answers = list(batches(reference, (*samples.choices, *samples.verdict)))
        if np.ptp(np.concatenate([self.decoder.decode(rows) for rows in answers]), axis=0).max() < 1e-6:
            raise SamplesError(f"{card.name}: the FP32 model says the same of all pictures; are they of another kind than it is for?")
        if known := familiar(card):
            distances = np.concatenate([known.distances(self.decoder.features(rows)) for rows in answers])
            if np.median(distances) > known.limit:
                raise SamplesError(
                    f"{card.name}: {(distances > known.limit).sum()} of {len(distances)} pictures are unlike what the model has learned"
                    f" from (distance {np.median(distances):.1f} in the middle, at most {known.limit:.1f}); take pictures of what it is for"
                )
        return samples

    def _detector(self) -> FaceDetector:
        detector = load_detector(self.wishes.detector, replace(self.options, precision="fp32", unit="auto"))
        self._stack.callback(detector.close)
        return detector

    def _chips(self, detector: FaceDetector, frame: Image) -> list[Image]:
        return [self._chip(frame, landmarks) for landmarks in detector.detect(frame).landmarks]

    def _chip(self, frame: Image, landmarks: Any) -> Image:
        assert self.card.alignment is not None
        return aligned(frame, landmarks, np.array(self.card.alignment.template, np.float32), self.card.input.sizes[0][0])

    def _labelled(self, labels: Path) -> Labelled:
        if self.card.task == "classification":
            return read_classes(self.card, self.decoder, labels)
        if self.card.task == "face-detection":
            return read_boxes(self.card, self.decoder, labels)
        detector = self._detector()

        def chip(picture: Image) -> Image | None:
            found = find_faces(detector, picture)
            return self._chip(picture, found.landmarks[largest(found)]) if len(found) else None

        return read_labelled_pairs(self.card, self.decoder, labels, chip)

    def _portraits(self) -> Judge | None:
        try:
            for name in portraits():
                ensure_asset(name, self.options.models_dir, self.options.progress)
        except EngineError as error:
            log.warning("the portraits that engines are compared on cannot be had: %s", error)
            return None
        return judge_of(self.card, self.card.input.sizes[0], self.options.models_dir)

    def _flavour(self, flavour: Flavour, quantiser: Quantiser, samples: Samples, gates: Gates) -> Outcome:
        began, budget_s, measure = time.monotonic(), self.wishes.budget_s, measure_of(self.card)
        some = [normalised(picture, self.card.input) for picture in samples.choices[:MEASURED]]
        reference = outputs(quantiser.model, some)
        kinds = (self.wishes.ranges,) if self.wishes.ranges else KINDS
        noise = {kind: measure(reference, outputs(quantiser.quantised(flavour, kind), some)) for kind in kinds}
        ranges = min(noise, key=lambda kind: noise[kind])
        table = sensitivities(
            quantiser.model, quantiser.quantised(flavour, ranges), some[:ONE_BY_ONE], measure, NODES_SHARE * budget_s,
            lambda done, total: self.tell(f"{flavour}: nodes one by one", done, total),
        )  # fmt: skip
        unmeasured = [node.name for node in quantised_nodes(quantiser.quantised(flavour, ranges)) if node.name not in table]
        search = Search(
            quantiser, flavour, ranges, [*table, *unmeasured],
            lambda file: self.judged(file, gates.choosing),
            self.folder, budget_s - (time.monotonic() - began), lambda done, total: self.tell(f"{flavour}: gate", done, total),
        )  # fmt: skip
        float_nodes, file, verdicts, refusals = self._held_back(search, gates)
        calibration = self._record(quantiser, flavour, ranges, samples, float_nodes, table, verdicts, refusals, file)
        save(calibration, file, place(self.card, self.options.engines_dir, flavour))
        return Outcome(calibration, verdicts, self._speed(file, list(verdicts)), tuple(search.tried), search.cut_short)

    def _held_back(self, search: Search, gates: Gates) -> tuple[list[str], Path, dict[str, Verdict], int]:
        """What the samples that were held back let through: nodes in float, file, verdicts, and how often they refused before.

        Raises RejectedError.
        """
        float_nodes, file = search.run()
        refusals = 0
        while True:
            verdicts = self.judged(file, gates.again if refusals else gates.verdict)
            if not (why := reasons(verdicts)):
                return float_nodes, file, verdicts, refusals
            refusals += 1
            log.info("%s: %d nodes in float are refused on what was held back: %s", self.card.name, len(float_nodes), why)
            float_nodes, file = search.further(len(float_nodes), f"on the samples that were held back from every choice {why}")

    def _record(
        self, quantiser: Quantiser, flavour: Flavour, ranges: Ranges, samples: Samples, float_nodes: Sequence[str],
        table: dict[str, float], verdicts: dict[str, Verdict], refusals: int, file: Path,
    ) -> Calibration:  # fmt: skip
        some = [normalised(picture, self.card.input) for picture in samples.verdict[:MEASURED]]
        made = quantiser.quantised(flavour, ranges, float_nodes)
        noise = raw_noise(outputs(quantiser.model, some), outputs(made, some))
        return Calibration(
            model=self.card.model_id,
            recipe=recipe(self.card),
            flavour=flavour,
            ranges=ranges,
            frames=len(samples),
            frames_sha256=samples.digest,
            float_nodes=tuple(float_nodes),
            sensitivity=table,
            sqnr_db=decibels(noise),
            accuracy={name: verdict.accuracy for name, verdict in verdicts.items() if verdict.accuracy},
            parity={name: verdict.parity for name, verdict in verdicts.items()},
            refusals=refusals,
            made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            file=place(self.card, self.options.engines_dir, flavour).name,
            file_sha256=sha256(file),
        )

    def _speed(self, file: Path, names: Sequence[str]) -> dict[str, Turns]:
        speed = {}
        for done, name in enumerate(names):
            self.tell("speed", done, len(names))
            with self._engine(self.backends[name], file, "int8") as candidate:
                speed[name] = in_turns(self.references[name], candidate)
        self.tell("speed", len(names), len(names))
        return speed

    def judged(self, file: Path, gate: Gate) -> dict[str, Verdict]:
        """By backend, what the gate says of a QDQ file. A backend that cannot run it is left out, and that is logged."""
        verdicts: dict[str, Verdict] = {}
        for name, backend in self.backends.items():
            try:
                with self._engine(backend, file, "int8") as candidate:
                    if candidate.precision != "int8":
                        raise EngineError(f"it computes the INT8 model in {candidate.precision}")
                    verdicts[name] = gate.judge(self.references[name], candidate)
            except EngineError as error:
                log.warning("%s is left out of the gate: %s", name, error)
        if not verdicts:
            raise CalibrationError(f"{self.card.name}: no runtime here can run the INT8 model; the messages above say why")
        return verdicts

    def _engine(self, backend: Backend, model: Path, precision: str) -> Engine:
        width, height = self.card.input.sizes[0]
        order = Build(
            name=self.card.name,
            model=model,
            input=self.card.input,
            batch=1,
            width=width,
            height=height,
            precision=precision,
            policy="latency" if self.options.policy == "latency" else "throughput",
            threads=self.options.threads,
            unit=backend.units()[0],
            outputs=self.decoder.params.outputs,
        )
        built = self.folder / f"{backend.name}-{precision}{backend.suffix}"
        backend.build(order, built)
        engine = backend.load(order, built)
        if precision == "fp32":
            self._stack.callback(engine.close)
        return engine
