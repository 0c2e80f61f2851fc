"""Built engines and their passports."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from engines.backends.base import IMAGE, Backend, Build
from engines.base import Engine, EngineError
from engines.calibrated import Calibration, beside
from engines.errors import NotFiniteError, memory_told
from engines.files import replacing, scratch, sha256
from engines.heap import trim
from engines.parity import Judge, Parity, without_fp32
from engines.stages import Stage, unsaid

log = logging.getLogger(__name__)

MEASURE_S = 0.4


class LessAccurateError(EngineError):
    """An engine is further from FP32 than the card allows."""

    def __init__(self, parity: Parity) -> None:
        super().__init__(parity.why)
        self.parity = parity


class Identity(BaseModel):
    """What a built engine is bound to. An engine with another identity is rebuilt, never loaded.

    `build` is among it because a passport tells what the code that wrote it made of the model: precision and verdict of an engine that an
    older Almena built may be others than this one's.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    """`<card name>@<sha256[:12]>`."""
    recipe: str
    """Digest of how the model is fed and converted."""
    build: str = ""
    """Digest of the code that converted, built and judged it (`engines.building`); empty in passports from before it was noted."""
    calibration: str = ""
    """Of the QDQ file, where int8 is among what may be built: the first twelve digits of its SHA-256."""
    pictures: Literal["portraits", "none"]
    """What it may be compared with FP32 on; FP32 itself needs none."""
    backend: str
    backend_version: str
    unit: str
    device: str
    shape: tuple[int, int, int]
    """Batch, height, width."""
    precision: str
    """The wish; `auto` among them."""
    policy: str
    threads: int | None
    streams: int | None = None


class Speed(BaseModel):
    """Milliseconds of one call at a time, and inferences per second with `parallel` calls at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    p50_ms: float
    p90_ms: float
    p99_ms: float
    parallel: int
    per_second: float


class Passport(BaseModel):
    """What is known of a built engine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: Identity
    precision: str
    """What it computes in, as the runtime says."""
    refused: dict[str, Parity] = {}
    """Precisions that were tried before and were less accurate than the card allows."""
    parity: Parity | None
    """Against FP32; None for FP32 itself. Its `note` says so where the file itself is INT8 and there is no FP32."""
    calibration: Calibration | None = None
    """How its INT8 model was made, with the sensitivity of its nodes; None at other precisions."""
    speed: Speed
    memory_mb: float
    """Growth of resident memory when it was loaded."""
    built_at: str
    build_s: float
    file: str
    file_sha256: str

    @property
    def ordered(self) -> str:
        """The precision to load it at: a file that is itself INT8 was ordered at FP32, as it is."""
        return "fp32" if self.parity is not None and self.parity.note else self.precision


class EngineStore:
    """A folder of engines, each with a JSON passport beside it."""

    def __init__(self, directory: Path, stage: Stage = unsaid) -> None:
        self.directory = directory
        self._stage = stage

    def passports(self) -> list[Passport]:
        """All readable passports."""
        found = (self._read(path) for path in sorted(self.directory.glob("*.json")))
        return [passport for passport in found if passport is not None]

    def has(self, identity: Identity) -> bool:
        """Whether an engine of that identity is kept. Its file is looked at by `open`."""
        passport = self._read(self._place(identity))
        return passport is not None and passport.identity == identity

    def open(self, backend: Backend, identity: Identity, build: Callable[[str], Build], judge: Judge) -> tuple[Engine, Passport]:
        """The engine of that identity: loaded if it is there and sound, else built and judged. `build` makes the order for a precision.

        Raises EngineError where it cannot be built, or where an expressly named precision is less accurate than allowed;
        TooLittleMemoryError where memory does not suffice.
        """
        batch, height, width = identity.shape
        with memory_told(f"{identity.model}, {width}x{height}, batch {batch}"):
            opened = self._opened(backend, identity, build, judge)
        trim()
        return opened

    def _opened(self, backend: Backend, identity: Identity, build: Callable[[str], Build], judge: Judge) -> tuple[Engine, Passport]:
        path, passport = self._kept(identity)
        if passport is not None:
            try:
                engine = backend.load(build(passport.ordered), self.directory / passport.file)
            except EngineError as error:
                log.warning("engine %s cannot be loaded and is built again: %s", self.directory / passport.file, error)
            else:
                if engine.precision == passport.precision:
                    return engine, passport
                engine.close()
                log.warning(
                    "%s computes in %s, not in %s as its passport says: built anew", path.stem, engine.precision, passport.precision
                )
        return self._make(backend, identity, build, judge, path)

    def _kept(self, identity: Identity) -> tuple[Path, Passport | None]:
        """Where the passport of that identity belongs, and the passport if it and its engine are sound."""
        path = self._place(identity)
        passport = self._read(path)
        if passport is not None and (why := self._unfit(passport, identity)):
            log.warning("engine %s %s; it is built again", self.directory / passport.file, why)
            passport = None
        return path, passport

    def _place(self, identity: Identity) -> Path:
        """Of its passport."""
        batch, height, width = identity.shape
        threads = f"-t{identity.threads}" if identity.threads else ""
        streams = f"-s{identity.streams}" if identity.streams else ""
        name, where = identity.model.partition("@")[0], f"{identity.backend}-{identity.unit}"
        stem = f"{name}-{width}x{height}x{batch}-{where}-{identity.precision}-{identity.policy}{threads}{streams}"
        return self.directory / f"{stem}.json"

    @staticmethod
    def _read(path: Path) -> Passport | None:
        try:
            return Passport.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("passport %s cannot be read (%s); its engine is built anew when it is needed", path.name, type(error).__name__)
            return None

    def _unfit(self, passport: Passport, wanted: Identity) -> str:
        """What is wrong with a kept engine; empty where it may be loaded."""
        had, want = passport.identity.model_dump(), wanted.model_dump()
        if other := [
            f"{name.replace('_', ' ')} {had[name] or 'none'}, now {want[name] or 'none'}" for name in want if had[name] != want[name]
        ]:
            return f"was built for something else ({'; '.join(other)})"
        file = self.directory / passport.file
        if not file.exists():
            return "is gone"
        return "" if sha256(file) == passport.file_sha256 else "is damaged, it is not the file that its passport tells of"

    def _make(
        self, backend: Backend, identity: Identity, build: Callable[[str], Build], judge: Judge, path: Path
    ) -> tuple[Engine, Passport]:
        able = backend.precisions(identity.unit)
        wishes = (
            tuple(one for one in able if one != "int8" or identity.calibration) if identity.precision == "auto" else (identity.precision,)
        )
        if missing := set(wishes) - set(able):
            raise EngineError(f"{identity.model}: {backend.name} has no {missing.pop()} here; it has {', '.join(able)}")
        refused: dict[str, Parity] = {}
        for precision in wishes:
            try:
                return self._built(backend, identity, build, precision, judge, path, refused)
            except LessAccurateError as error:
                refused[precision] = error.parity
                log.warning("%s at %s is refused: %s", identity.model, precision, error)
        why = "; ".join(f"{precision}: {parity.why}" for precision, parity in refused.items())
        raise EngineError(f"{identity.model}: less accurate than its card allows ({why}); use `engines.precision: auto`")

    def _built(
        self,
        backend: Backend,
        identity: Identity,
        build: Callable[[str], Build],
        precision: str,
        judge: Judge,
        path: Path,
        refused: dict[str, Parity],
    ) -> tuple[Engine, Passport]:
        """Build at one precision; its file is kept only if it passes. Raises LessAccurateError."""
        started = time.monotonic()
        file = path.with_suffix(backend.suffix)
        with replacing(file) as temporary, ExitStack() as failing:
            order = build(precision)
            self._stage("build")
            backend.build(order, temporary)
            before = psutil.Process().memory_info().rss
            engine = backend.load(order, temporary)
            failing.callback(engine.close)
            grown = (psutil.Process().memory_info().rss - before) / 1e6
            parity, speed = self._judged(backend, build, precision, engine, judge, file)
            digest = sha256(temporary)
            failing.pop_all()
        if parity is not None and parity.note:
            log.warning("%s: %s", identity.model, parity.note)
        passport = Passport(
            identity=identity,
            precision=engine.precision,
            refused=refused,
            parity=parity,
            calibration=beside(build(precision).model) if precision == "int8" else None,
            speed=speed,
            memory_mb=round(grown, 1),
            built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            build_s=round(time.monotonic() - started, 2),
            file=file.name,
            file_sha256=digest,
        )
        with replacing(path) as temporary:
            temporary.write_text(passport.model_dump_json(indent=2) + "\n")
        return engine, passport

    def _judged(
        self, backend: Backend, build: Callable[[str], Build], precision: str, engine: Engine, judge: Judge, file: Path
    ) -> tuple[Parity | None, Speed]:
        """Against FP32, and how fast. Raises LessAccurateError, also where outputs are not finite at less than FP32."""
        try:
            parity = without_fp32(engine.precision) if precision == "fp32" else self._parity(backend, build("fp32"), engine, judge, file)
            if parity is not None and parity.why:
                raise LessAccurateError(parity)
            self._stage("measure")
            return parity, measure(engine)
        except NotFiniteError as error:
            if precision == "fp32":
                raise
            raise LessAccurateError(Parity(pictures="none", count=0, why=str(error))) from error

    def _parity(self, backend: Backend, order: Build, candidate: Engine, judge: Judge, target: Path) -> Parity:
        self._stage("compare")
        with scratch(target) as reference_file:
            backend.build(order, reference_file)
            with backend.load(order, reference_file) as reference:
                return judge(reference, candidate)


def measure(engine: Engine) -> Speed:
    """Latency with one caller and throughput with `engine.parallel` callers, on noise, after a warm-up."""
    shape = tuple(size or 1 for size in engine.inputs[0].shape)
    tensors = {IMAGE: np.random.default_rng(1).integers(0, 256, shape, np.uint8)}
    for _ in range(3):
        engine.infer(tensors)
    times: list[float] = []
    end = time.perf_counter() + MEASURE_S
    while len(times) < 5 or time.perf_counter() < end:
        started = time.perf_counter()
        engine.infer(tensors)
        times.append(1e3 * (time.perf_counter() - started))
    p50, p90, p99 = (round(float(value), 3) for value in np.percentile(times, (50, 90, 99)))
    return Speed(p50_ms=p50, p90_ms=p90, p99_ms=p99, parallel=engine.parallel, per_second=round(per_second(engine, MEASURE_S, 3), 1))


def per_second(engine: Engine, seconds: float, least: int = 1) -> float:
    """Pictures a second over about that time, on noise, with `engine.parallel` callers of at least so many calls each."""
    shape = tuple(size or 1 for size in engine.inputs[0].shape)
    tensors = {IMAGE: np.random.default_rng(1).integers(0, 256, shape, np.uint8)}
    counts = [0] * engine.parallel
    started = time.perf_counter()

    def work(number: int) -> None:
        while counts[number] < least or time.perf_counter() < started + seconds:
            engine.infer(tensors)
            counts[number] += 1

    with ThreadPoolExecutor(engine.parallel) as callers:
        list(callers.map(work, range(engine.parallel)))
    return sum(counts) * shape[0] / (time.perf_counter() - started)
