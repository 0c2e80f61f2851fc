"""From frames to INT8: samples, ranges, sensitivity, mixed precision, gate, record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from calibration.errors import CalibrationError, SamplesError
from calibration.gate import Gate, Verdict
from calibration.labels import Labelled, read_boxes, read_classes, read_labelled_pairs
from calibration.noise import decibels, measure_of, outputs, raw_noise
from calibration.quantise import Quantiser
from calibration.samples import Samples, gather, normalised
from calibration.sensitivity import quantised_nodes, sensitivities
from calibration.stills import find_faces, largest
from calibration.turns import Turns, in_turns
from engines.available import installed
from engines.backends.base import IMAGE, Backend, Build
from engines.base import Engine, EngineError
from engines.calibrated import Calibration, Flavour, Ranges, place, save
from engines.card import ModelCard
from engines.convert import converted
from engines.fetch import ensure, ensure_asset
from engines.files import scratch, sha256
from engines.model import EngineOptions, FaceDetector, judge_of, load_detector, recipe
from engines.parity import Judge, batches, portraits
from engines.preprocess import Image, aligned
from engines.registry import DECODERS, resolve

if TYPE_CHECKING:
    from typing_extensions import Self

log = logging.getLogger(__name__)

KINDS: tuple[Ranges, ...] = ("minmax", "percentile", "entropy")
MEASURED = 12
"""Held-out samples on which ranges are compared."""
ONE_BY_ONE = 6
"""Of those, on how many nodes are measured."""
NAMED = 5
"""Nodes that a rejection names."""
Tell = Callable[[str, int, int], None]
"""Called with what is going on, how much of it is done, and the whole."""


class RejectedError(CalibrationError):
    """No mix of INT8 and float passed the gate."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """`flavours`: empty for those that the backends here are fast with. `ranges`: None for those with the least noise.

    `budget_s`: how long nodes are measured one by one. `detector`: finds the faces for an embedder.
    """

    flavours: tuple[Flavour, ...] = ()
    ranges: Ranges | None = None
    samples: int = 96
    budget_s: float = 120.0
    detector: str = "centerface"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A calibrated model: its record, and by backend what the gate saw and how fast INT8 is against FP32."""

    calibration: Calibration
    verdicts: dict[str, Verdict]
    speed: dict[str, Turns]
    tried: tuple[tuple[int, str], ...]
    """Nodes left in float and why that was refused, before what is kept."""


class Calibrator:
    """Calibrates one card's model on this machine. Close it, or use it in a `with` block."""

    def __init__(self, card: ModelCard, options: EngineOptions, wishes: Wishes, tell: Tell = lambda what, done, total: None) -> None:
        """Fetches and converts the model and builds its FP32 engines. Raises EngineError."""
        self.card, self.options, self.wishes, self.tell = card, options, wishes, tell
        self._stack = ExitStack()
        try:
            self.folder = self._stack.enter_context(scratch(options.engines_dir / "calibration"))
            self.folder.mkdir()
            self.model = converted(card, ensure(card, options.models_dir, options.progress))[0]
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
            self.references = {name: self._engine(backend, self.model, "fp32") for name, backend in self.backends.items()}
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
        quantiser = Quantiser(self.model, self.card.name)
        feeds = [normalised(picture, self.card.input) for picture in samples.ranges]
        quantiser.observe(feeds, lambda done, total: self.tell("ranges", done, total))
        held_out = [normalised(picture, self.card.input) for picture in samples.held_out]
        gate = Gate(self.card, self.decoder, samples.held_out, labelled, self._portraits())
        flavours = self.wishes.flavours or tuple(
            dict.fromkeys(backend.flavour_on(backend.units()[0]) for backend in self.backends.values())
        )
        return [self._flavour(flavour, quantiser, samples, held_out, gate) for flavour in flavours]

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
        said = np.concatenate([self.decoder.decode(rows) for rows in batches(reference, samples.held_out)])
        if np.ptp(said, axis=0).max() < 1e-6:
            raise SamplesError(f"{card.name}: the FP32 model says the same of all pictures; are they of another kind than it is for?")
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

    def _flavour(self, flavour: Flavour, quantiser: Quantiser, samples: Samples, held_out: Sequence[Any], gate: Gate) -> Outcome:
        some, measure = held_out[:MEASURED], measure_of(self.card)
        reference = outputs(quantiser.model, some)
        kinds = (self.wishes.ranges,) if self.wishes.ranges else KINDS
        noise = {kind: measure(reference, outputs(quantiser.quantised(flavour, kind), some)) for kind in kinds}
        ranges = min(noise, key=lambda kind: noise[kind])
        table = sensitivities(
            quantiser.model, quantiser.quantised(flavour, ranges), some[:ONE_BY_ONE], measure, self.wishes.budget_s,
            lambda done, total: self.tell(f"{flavour}: nodes one by one", done, total),
        )  # fmt: skip
        unmeasured = [node.name for node in quantised_nodes(quantiser.quantised(flavour, ranges)) if node.name not in table]
        search = _Search(self, quantiser, flavour, ranges, [*table, *unmeasured], gate)
        float_nodes, file, verdicts = search.run()
        made = quantiser.quantised(flavour, ranges, float_nodes)
        target = place(self.card, self.options.engines_dir, flavour)
        calibration = Calibration(
            model=self.card.model_id,
            recipe=recipe(self.card),
            flavour=flavour,
            ranges=ranges,
            frames=len(samples),
            frames_sha256=samples.digest,
            float_nodes=tuple(float_nodes),
            sensitivity=table,
            sqnr_db=decibels(raw_noise(reference, outputs(made, some))),
            accuracy={name: verdict.accuracy for name, verdict in verdicts.items() if verdict.accuracy},
            made_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            file=target.name,
            file_sha256=sha256(file),
        )
        save(calibration, file, target)
        return Outcome(calibration, verdicts, self._speed(file, list(verdicts)), tuple(search.tried))

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


_Found = tuple[list[str], Path, dict[str, Verdict]]
"""The nodes in float, the QDQ file, and the verdicts by backend."""


class _Search:
    """For the fewest nodes in float with which the gate lets the model through: 0, 1, 2, 4 …, then between.

    Of each number, first the most sensitive nodes are tried, then those next to the model's input and outputs: noise that many nodes make
    together is not seen where each is measured alone, and it is made at the ends, where values are few or stand for positions.
    """

    def __init__(
        self, calibrator: Calibrator, quantiser: Quantiser, flavour: Flavour, ranges: Ranges, nodes: list[str], gate: Gate
    ) -> None:
        self._calibrator, self._quantiser, self._flavour, self._ranges = calibrator, quantiser, flavour, ranges
        self._gate = gate
        placed = [name for name in quantiser.nodes if name in set(nodes)]
        outermost = sorted(nodes, key=lambda name: min(placed.index(name), len(placed) - 1 - placed.index(name)))
        self._orders = nodes, outermost
        self.tried: list[tuple[int, str]] = []

    def run(self) -> _Found:
        """Raises RejectedError."""
        nodes = self._orders[0]
        most = len(nodes) * 2 // 3
        counts = [0, *(2**power for power in range(most.bit_length()) if 2**power < most), *([most] if most else [])]
        failed = -1
        for count in counts:
            for order in self._orders[: 1 if count == 0 else None]:
                found = self._try(order[:count])
                if found is not None:
                    return self._between(order, failed, found)
            failed = count
        named = ", ".join(nodes[:NAMED])
        raise RejectedError(
            f"{self._calibrator.card.name}: INT8 ({self._flavour}) is refused: {self.tried[0][1]}; with {failed} of"
            f" {len(nodes)} nodes in float still: {self.tried[-1][1]}. The most sensitive nodes are {named}."
            " Calibrate with more, and more typical, pictures, or leave the model in float."
        )

    def _between(self, order: list[str], failed: int, best: _Found) -> _Found:
        while len(best[0]) - failed > 1:
            count = (failed + len(best[0])) // 2
            found = self._try(order[:count])
            if found is None:
                failed = count
            else:
                best = found
        return best

    def _try(self, float_nodes: list[str]) -> _Found | None:
        import onnx

        calibrator, count = self._calibrator, len(float_nodes)
        calibrator.tell(f"{self._flavour}: gate", count, max(1, len(self._orders[0])))
        file = calibrator.folder / f"{self._flavour}-{count}.onnx"
        onnx.save(self._quantiser.quantised(self._flavour, self._ranges, float_nodes), str(file))
        verdicts = calibrator.judged(file, self._gate)
        why = "; ".join(f"{name}: {verdict.why}" for name, verdict in verdicts.items() if verdict.why)
        if not why:
            return float_nodes, file, verdicts
        log.info("%s with %d nodes in float is refused: %s", self._flavour, count, why)
        self.tried.append((count, why))
        return None
