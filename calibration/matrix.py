"""The comparison table: models by backend, unit, precision and batch.

All cells of a model take turns: each round loads every engine, measures it and lets it go, forth and then back, so that one engine at a
time is in memory and a device that slows down slows all cells. Medians over the rounds count.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from time import monotonic
from typing import Any

from calibration.power import PowerMeter
from calibration.scenarios import Latency, offline, runner, side_by_side, single_stream, warm
from calibration.trials import Trials, possible
from engines.base import EngineError
from engines.calibrated import Accuracy, find_sound
from engines.card import ModelCard
from engines.model import EngineOptions, Workshop, recipe
from engines.parity import Parity
from engines.registry import BACKENDS, resolve
from engines.tuning import Choice, Goal

GOALS: tuple[Goal, ...] = ("latency", "throughput")
BY_HAND = ("openvino", "onnxruntime")
"""Backends among which the tuned engine must find the best."""
TURNS, LEAST_TURNS = 10, 3
"""Of a tuned engine and the best by hand."""
TURNS_SHARE = 0.2
"""Of the budget, for each goal's turns, where the tuned engines are compared; what is left is for the rounds."""
Told = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared and how long. `tuned`: the tuned engines stand beside the others. `budget_s`: for each model."""

    backends: tuple[str, ...] = tuple(BACKENDS)
    precisions: tuple[str, ...] = ("fp32", "bf16", "fp16", "int8")
    batches: tuple[int, ...] = (1, 8)
    rounds: int = 3
    seconds: float = 0.5
    tuned: bool = False
    budget_s: float = math.inf


@dataclass(slots=True)
class _Cell:
    """One line of the table. The goals that it is measured for, each with the engine that was built for it."""

    choices: dict[Goal, Choice]
    by_hand: bool = True
    tuned: list[Goal] = field(default_factory=list)
    """The goals for which the tuner chose just this."""
    why: str = ""
    precision: str = ""
    """What its engines compute in, as the runtime says."""
    latencies: list[Latency] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    joules: list[float] = field(default_factory=list)

    @property
    def choice(self) -> Choice:
        return next(iter(self.choices.values()))

    def costs(self, goal: Goal) -> list[float]:
        """Round by round, lower is better."""
        return [one.p50_ms for one in self.latencies] if goal == "latency" else [1 / rate for rate in self.rates]


class Matrix:
    """The table of some models."""

    def __init__(self, cards: Sequence[ModelCard], options: EngineOptions, plan: Plan, meter: PowerMeter, told: Told) -> None:
        self._cards = cards
        self._options = options
        self._plan = plan
        self._meter = meter
        self._told = told
        self._notes: list[str] = []

    def run(self) -> dict[str, Any]:
        """`rows`; `missing`: what could not be measured, and why; `tuned`: the tuned engines as a share of the best choice by hand;
        `notes`: which models' budgets did not suffice for all rounds.
        """
        rows: list[dict[str, Any]] = []
        missing: list[dict[str, str]] = []
        tuned: list[dict[str, Any]] = []
        for index, card in enumerate(self._cards):
            cells, lacking = self._cells(card)
            trials = Trials(card, self._options)
            try:
                self._measure(card, trials, cells, index)
                rows += [self._row(card, trials, cell) for cell in cells if not cell.why]
                tuned += self._against_the_best(card, trials, cells)
            finally:
                trials.close()
            missing += [{"model": card.name, "backend": one.backend, "precision": one.precision, "why": why} for one, why in lacking]
            missing += [
                {"model": card.name, "backend": cell.choice.backend, "precision": cell.choice.precision, "why": cell.why}
                for cell in cells
                if cell.why
            ]
        energy = self._meter.source or f"not available: {self._meter.missing}"
        host = {"threads": os.cpu_count(), "backends": self._devices({row["backend"]: row["unit"] for row in rows})}
        return {"rows": rows, "missing": missing, "tuned": tuned, "notes": self._notes, "energy": energy, "host": host}

    @staticmethod
    def _devices(used: dict[str, str]) -> dict[str, str]:
        backends = {name: resolve(BACKENDS, name, "backend")() for name in used}
        return {name: f"{backend.version()}, {backend.device(used[name])}" for name, backend in backends.items()}

    def _cells(self, card: ModelCard) -> tuple[list[_Cell], list[tuple[Choice, str]]]:
        plan, tunings = self._plan, self._tunings(card) if self._plan.tuned else {}
        batches = sorted({*plan.batches, *(choice.batch for choice in tunings.values())})
        choices, lacking = possible(card, "latency", 1, plan.backends)
        wanted = [choice for choice in choices if choice.precision in plan.precisions]
        cells = [
            _Cell({goal: choice.model_copy(update={"policy": goal, "batch": batch}) for goal in GOALS})
            for batch in batches
            for choice in wanted
        ]
        others = []
        for goal, choice in tunings.items():
            same = [cell for cell in cells if cell.choices[goal] == choice]
            if not same:
                others.append(_Cell({goal: choice}, by_hand=False, tuned=[goal]))
            for cell in same:
                cell.tuned.append(goal)
        return [*others, *cells], [(one.choice, one.why) for one in lacking]

    def _tunings(self, card: ModelCard) -> dict[Goal, Choice]:
        found: dict[Goal, Choice] = {}
        for goal in GOALS:
            shop = Workshop(card, replace(self._options, backend="auto", unit="auto", precision="auto", threads=None, policy=goal))
            if shop.tuning is None:
                raise EngineError(f"{card.name} is not tuned for {goal} here: first {card.advice('tune', f'--policy {goal}')}")
            found[goal] = shop.choice
        return found

    def _measure(self, card: ModelCard, trials: Trials, cells: list[_Cell], index: int) -> None:
        """Where the budget ends, rounds end, too; what the first one did not come to is not measured."""
        ends = monotonic() + self._plan.budget_s * (1 - TURNS_SHARE * len(GOALS) * self._plan.tuned)
        rounds = self._plan.rounds
        visits = [(number, cell) for number in range(rounds) for cell in (cells if number % 2 == 0 else reversed(cells))]
        for place, (number, cell) in enumerate(visits):
            if cell.why:
                continue
            if monotonic() > ends:
                if number > 0:
                    self._notes.append(
                        f"{card.name}: the budget of {self._plan.budget_s:g} s was used up in round {number + 1} of {rounds}"
                    )
                    return
                cell.why = f"the budget of {self._plan.budget_s:g} s was used up before its turn at batch {cell.choice.batch}"
                continue
            share = (index + place / len(visits)) / len(self._cards)
            self._told(f"{card.name}: round {number + 1}, {cell.choice.backend} {cell.choice.precision}, batch {cell.choice.batch}", share)
            try:
                self._visit(trials, cell)
            except (EngineError, OSError, MemoryError) as error:
                cell.why = str(error) or type(error).__name__

    def _visit(self, trials: Trials, cell: _Cell) -> None:
        for goal, choice in cell.choices.items():
            with trials.open(choice) as engine:
                cell.precision = engine.precision
                what = runner(engine)
                warm(what)
                if goal == "latency":
                    cell.latencies.append(single_stream(what, self._plan.seconds, 1))
                    continue
                with self._meter.run() as energy:
                    done = offline(what, self._plan.seconds, 1)
                cell.rates.append(done.per_second)
                cell.joules += [used.joules / done.samples for used in energy]

    def _against_the_best(self, card: ModelCard, trials: Trials, cells: list[_Cell]) -> list[dict[str, Any]]:
        """Each tuned engine as a share of the best choice by hand at the batch that it was tuned for: 1 is as good. Where the tuner
        chose that very one, there is nothing to measure; else both are loaded and take turns: a share for each round, and the median.
        """
        found = []
        for cell in cells:
            hand = [
                other
                for other in cells
                if other.by_hand and not other.why and other.choice.batch == cell.choice.batch and other.choice.backend in BY_HAND
            ]
            for goal in cell.tuned if hand and not cell.why else ():
                best = min(hand, key=lambda other: median(other.costs(goal)))
                self._told(f"{card.name}: tuned for {goal} against {best.choice.backend} {best.precision}", 1.0)
                shares = self._in_turns(trials, goal, best.choices[goal], cell.choices[goal]) if best is not cell else []
                found.append(
                    {
                        "model": card.name,
                        "goal": goal,
                        "batch": cell.choice.batch,
                        "ratio": median(shares) if shares else 1.0,
                        "ratios": shares,
                        "tuned": str(cell.choices[goal].model_copy(update={"precision": cell.precision})),
                        "best_by_hand": f"{best.choice.backend} {best.precision}",
                    }
                )
        return found

    def _in_turns(self, trials: Trials, goal: Goal, best: Choice, tuned: Choice) -> list[float]:
        with trials.open(best) as one, trials.open(tuned) as other:
            runners = runner(one), runner(other)
            for what in runners:
                warm(what)
            shares: list[float] = []
            ends = monotonic() + self._plan.budget_s * TURNS_SHARE
            while len(shares) < TURNS and (len(shares) < LEAST_TURNS or monotonic() < ends):
                number = len(shares)
                order = runners if number % 2 == 0 else runners[::-1]
                if goal == "latency":
                    costs = [latency.p50_ms for latency in side_by_side(*order, self._plan.seconds)]
                else:
                    costs = [1 / offline(what, self._plan.seconds, 1).per_second for what in order]
                first, second = costs if number % 2 == 0 else costs[::-1]
                shares.append(first / second)
        return shares

    def _row(self, card: ModelCard, trials: Trials, cell: _Cell) -> dict[str, Any]:
        choice, made = cell.choice, trials.made(cell.choice)
        accuracy, metric = self._accuracy(card, choice, made.parity)
        return {
            "model": card.name,
            "backend": choice.backend,
            "unit": choice.unit,
            "precision": cell.precision,
            "batch": choice.batch,
            "tuned": " and ".join(cell.tuned) or None,
            "threads": choice.threads,
            "streams": choice.streams,
            "rounds": max(len(cell.latencies), len(cell.rates)),
            "latency_p50_ms": _median([one.p50_ms for one in cell.latencies]),
            "latency_p99_ms": _median([one.p99_ms for one in cell.latencies]),
            "throughput_per_second": _median(cell.rates),
            "accuracy": accuracy,
            "accuracy_is": metric,
            "memory_mb": round(made.memory_mb, 1),
            "file_mb": round(made.file_mb, 2),
            "build_s": round(made.build_s, 2),
            "load_s": round(made.load_s, 3),
            "joules_per_inference": _median(cell.joules),
        }

    def _accuracy(self, card: ModelCard, choice: Choice, parity: Parity | None) -> tuple[float | None, str]:
        """On labelled data, where the calibration was judged on such; else how well it agrees with FP32, and in what sense."""
        if parity is not None and parity.note:
            return None, parity.note
        labelled = self._labelled(card, choice)
        if labelled and choice.precision in ("fp32", "int8"):
            main = labelled[0]
            value = main.reference if choice.precision == "fp32" else main.candidate
            return value, f"{main.metric} of {main.count} labelled"
        if parity is None:
            return 1.0, "the reference"
        if parity.agreement is not None:
            return parity.agreement, f"same answers as fp32 on {parity.count} pictures"
        if parity.overlap is not None:
            return parity.overlap, f"least overlap with fp32 boxes on {parity.count} pictures"
        if parity.distance is not None:
            return 1 - parity.distance, f"1 - largest distance from fp32 templates on {parity.count} pictures"
        return None, "not judged"

    def _labelled(self, card: ModelCard, choice: Choice) -> tuple[Accuracy, ...]:
        flavour = resolve(BACKENDS, choice.backend, "backend")().flavour_on(choice.unit)
        found = find_sound(card, recipe(card), self._options.engines_dir, flavour)
        return found[1].accuracy.get(choice.backend, ()) if found else ()


def _median(values: Sequence[float]) -> float | None:
    return median(values) if values and all(map(math.isfinite, values)) else None
