"""Engines of one model that are built only to be measured."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import psutil

from engines.backends.base import Backend, Policy
from engines.base import Engine, EngineError
from engines.card import ModelCard
from engines.convert import reachable
from engines.files import scratch
from engines.fit import require_fit
from engines.model import EngineOptions, Workshop, judge_of
from engines.parity import Parity, without_fp32
from engines.registry import BACKENDS, MODULES, resolve
from engines.store import LessAccurateError
from engines.tuning import Choice

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
"""From the most accurate to the least."""
EXTRAS = {"onnxruntime": "cpu"}
"""The extra of the package that brings a backend's runtime, where it has another name."""


@dataclass(frozen=True, slots=True)
class Made:
    """What building and loading an engine took. `memory_mb`: growth of resident memory at its first load."""

    build_s: float
    load_s: float
    file_mb: float
    memory_mb: float
    parity: Parity | None


@dataclass(frozen=True, slots=True)
class Impossible:
    """A way of running the model that this machine does not have."""

    choice: Choice
    why: str


class Trials:
    """A scratch folder of engines. An engine is built when it is first asked for and loaded from its file every time.

    What trials left that died is removed by the next ones.
    """

    def __init__(self, card: ModelCard, options: EngineOptions, size: tuple[int, int] | None = None) -> None:
        self.card = card
        self.size = size or card.input.sizes[0]
        self._options = options
        self._kept = ExitStack()
        self._folder = self._kept.enter_context(scratch(options.engines_dir / "trials"))
        self._folder.mkdir()
        self._made: dict[Choice, Made] = {}
        self._parities: dict[Choice, Parity] = {}
        self._shops: dict[Choice, Workshop] = {}

    def prepare(self, choice: Choice) -> None:
        """Fetch and convert the model file of a choice. Raises EngineError where there is none, as at int8 without a calibration, and
        where memory or disk do not suffice.
        """
        self._shop(choice).order(self.size, choice.batch)(choice.precision)

    def open(self, choice: Choice) -> Engine:
        """The engine of that choice and its batch. Raises EngineError, and LessAccurateError where it fails the card's gate."""
        engine = self._load(choice)
        try:
            require_fit(self.card, engine)
            parity = self._parity(choice, engine)
            self._made[choice] = replace(self._made[choice], parity=parity)
            if parity is not None and parity.why:
                raise LessAccurateError(parity)
        except BaseException:
            engine.close()
            raise
        return engine

    def made(self, choice: Choice) -> Made:
        """What is known of an engine that was opened before."""
        return self._made[choice]

    def close(self) -> None:
        """Delete all files."""
        self._kept.close()

    def _shop(self, choice: Choice) -> Workshop:
        if choice not in self._shops:
            shop = Workshop(self.card, self._options, choice)
            shop.require_room(self.size, choice.batch)
            self._shops[choice] = shop
        return self._shops[choice]

    def _file(self, choice: Choice) -> Path:
        name = "-".join(str(value) for value in choice.model_dump().values())
        return self._folder / f"{name}{self._shop(choice).backend.suffix}"

    def _load(self, choice: Choice) -> Engine:
        shop, file = self._shop(choice), self._file(choice)
        order = shop.order(self.size, choice.batch)(choice.precision)
        if choice in self._made:
            return shop.backend.load(order, file)
        started = time.monotonic()
        shop.backend.build(order, file)
        built = time.monotonic()
        gc.collect()
        before = psutil.Process().memory_info().rss
        engine = shop.backend.load(order, file)
        grown = (psutil.Process().memory_info().rss - before) / 1e6
        self._made[choice] = Made(built - started, time.monotonic() - built, _bytes(file) / 1e6, grown, None)
        return engine

    def _parity(self, choice: Choice, engine: Engine) -> Parity | None:
        """Against FP32 on the same backend; it does not depend on threads and streams, so it is asked for once."""
        if choice.precision == "fp32":
            return without_fp32(engine.precision)
        kind = choice.model_copy(update={"policy": "throughput", "threads": None, "streams": None})
        if kind not in self._parities:
            self._shop(choice).fetch_portraits()
            judge = judge_of(self.card, self.size, self._options.models_dir)
            with self._load(choice.model_copy(update={"precision": "fp32"})) as reference:
                self._parities[kind] = judge(reference, engine)
        return self._parities[kind]


def possible(card: ModelCard, policy: Policy, batch: int, backends: Iterable[str] = BACKENDS) -> tuple[list[Choice], list[Impossible]]:
    """Every backend, unit and precision that this machine has for that model, the likeliest to be fast first; what it lacks, and why."""
    found: list[Choice] = []
    missing: list[Impossible] = []
    for name in backends:
        try:
            found += _of_backend(card, name, policy, batch)
        except EngineError as error:
            missing.append(Impossible(Choice(backend=name, unit="any", precision="any", policy=policy, batch=batch), str(error)))
    return sorted(found, key=lambda choice: choice.precision == "fp32"), missing


def _of_backend(card: ModelCard, name: str, policy: Policy, batch: int) -> list[Choice]:
    """Raises EngineError where there is none."""
    if name in MODULES and find_spec(MODULES[name]) is None:
        raise EngineError(f"not installed: pip install 'almena[{EXTRAS.get(name, name)}]'")
    backend: Backend = resolve(BACKENDS, name, "backend")()
    if not any(reachable(card, wanted) for wanted in backend.formats):
        raise EngineError(f"it reads {', '.join(backend.formats)}, which a {card.format} model cannot be turned into")
    units = backend.units()
    if not units:
        raise EngineError("it finds no device here; `almena doctor` says why")
    return [
        Choice(backend=name, unit=unit, precision=precision, policy=policy, batch=batch)
        for unit in units
        for precision in backend.precisions(unit)
    ]


def _bytes(path: Path) -> int:
    return sum(part.stat().st_size for part in path.rglob("*") if part.is_file()) if path.is_dir() else path.stat().st_size
