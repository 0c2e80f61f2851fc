"""Finds the best way to run a model on this device by measuring.

Successive halving (Jamieson and Talwalkar, AISTATS 2016): every backend, unit and precision is measured briefly in its usual way, the
better half of them in further ways (threads, streams, batches), and the best few against each other in interleaved rounds until they
differ by more than noise. Each measurement before the final stands between two of one reference engine, so that a device that grows hot,
or busy with something else, is not taken for a slow candidate.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timezone
from statistics import median
from time import monotonic
from typing import Any, Literal

from calibration.final import ALIKE, final, relative
from calibration.power import PowerMeter, temperature
from calibration.scenarios import Runner, offline, runner, single_stream, warm
from calibration.trials import PRECISIONS, Trials, possible
from engines.base import Engine, EngineError
from engines.card import ModelCard
from engines.model import BATCH, EngineOptions, Workshop, judge_of
from engines.registry import BACKENDS
from engines.store import LessAccurateError
from engines.tuning import Choice, Goal, Tuning, fingerprint, save

log = logging.getLogger(__name__)

WAYS_SHARE = 0.75
"""Of the budget, for the first comparison, and for further ways in what it leaves; the rest is for the final, which has it also where these
took longer."""
FINALISTS = 4
SLOWED = 0.15
BATCHES = (4, 16)
SLICES: dict[Goal, tuple[float, float]] = {"latency": (0.1, 1.0), "throughput": (0.1, 1.0), "efficiency": (1.0, 2.0)}
"""Seconds of a single measurement, at least and at most; sensors of power need longer ones."""
UNITS = {"latency": "ms", "throughput": "images/s", "efficiency": "mJ an image"}

Told = Callable[[str, float], None]
"""Called with what is being done and which share of the budget is used up."""
Outcome = Literal["chosen", "measured", "refused", "failed", "not tried"]


@dataclass(slots=True)
class Row:
    """One candidate: what became of it and why. `precision`: what it computes in, as the runtime says, once it was built.

    `cost` is a median: for latency the seconds of a call, for throughput those of a picture, for efficiency the joules of a picture.
    """

    choice: Choice
    outcome: Outcome
    why: str = ""
    precision: str = ""
    cost: float | None = None
    relative: float | None = None
    """Its cost as a multiple of the chosen one's, both measured in the same moments."""
    rounds: int = 0
    temperature_c: float | None = None

    @property
    def way(self) -> Choice:
        """The choice with the precision that it computes in."""
        return self.choice.model_copy(update={"precision": self.precision or self.choice.precision})

    def as_json(self, goal: Goal) -> dict[str, Any]:
        """With the figure that the goal is about."""
        content: dict[str, Any] = {**self.way.model_dump(), "outcome": self.outcome, "why": self.why, "relative": self.relative}
        return {**content, "rounds": self.rounds, "temperature_c": self.temperature_c, FIGURES[goal]: figure(goal, self.cost)}


FIGURES = {"latency": "latency_p50_ms", "throughput": "throughput_per_second", "efficiency": "net_joules_per_inference"}


def figure(goal: Goal, cost: float | None) -> float | None:
    """A cost in the unit of FIGURES."""
    if cost is None:
        return None
    return {"latency": 1e3 * cost, "throughput": 1 / cost, "efficiency": cost}[goal]


@dataclass(frozen=True, slots=True)
class Tuned:
    """The outcome: the tuning that was saved, and every candidate."""

    tuning: Tuning
    rows: tuple[Row, ...]
    seconds: float
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Stand:
    """A candidate whose engines are loaded: one, or one for each batch that a picture may come in."""

    row: Row
    engines: list[Engine]
    costs: list[float] = field(default_factory=list)

    @property
    def cost(self) -> float:
        return median(self.costs)

    def close(self) -> None:
        for engine in self.engines:
            engine.close()


class Tuner:
    """One tuning of one model, for `budget_s` seconds, in which the model file is there and converted.

    `batch`: pictures in a call; None: one for latency and for detectors, one and BATCH for embedders, the best of several for classifiers.
    """

    def __init__(
        self,
        card: ModelCard,
        options: EngineOptions,
        goal: Goal,
        budget_s: float,
        batch: int | None = None,
        backends: Iterable[str] = BACKENDS,
        meter: PowerMeter | None = None,
        told: Told = lambda _what, _share: None,
    ) -> None:
        if goal == "efficiency" and (meter is None or not meter.sensors):
            reason = meter.missing if meter else "no sensor was given"
            raise EngineError(f"{card.name}: efficiency cannot be tuned for, because this device tells no power: {reason}")
        self.card = card
        self.goal: Goal = goal
        self._options = options
        self._backends = tuple(backends)
        self._batch = batch
        self._meter = meter
        self._told = told
        self._started = monotonic()
        self._budget = budget_s
        shortest, longest = SLICES[goal]
        self._slice = min(longest, max(shortest, budget_s / 150))
        self._trials = Trials(card, options)
        self._rows: dict[Choice, Row] = {}
        self._first: set[Choice] = set()
        self._reference_costs: list[float] = []
        self._notes: list[str] = []

    def run(self) -> Tuned:
        """Measure, choose, and keep the tuning and its engines. Raises EngineError where no candidate runs."""
        try:
            first, missing = possible(self.card, self._policy, self._batch or 1, self._backends)
            for one in missing:
                self._rows[one.choice] = Row(one.choice, "not tried", one.why)
            first = [choice for choice in first if self._prepared(choice)]
            self._first = set(first)
            self._started = monotonic()
            with ExitStack() as loaded:
                reference = self._reference(first)
                loaded.callback(reference.close)
                self._compare(first, reference, WAYS_SHARE)
                leaders = self._best()[: max(2, len(self._best()) // 2)][:FINALISTS]
                ways = [way for row in leaders for way in self._ways(row.choice)]
                self._compare(ways, reference, WAYS_SHARE)
            winner = self._final([row.choice for row in self._best()[:FINALISTS]])
        finally:
            self._trials.close()
        return self._kept(winner)

    @property
    def _policy(self) -> Literal["latency", "throughput"]:
        return "latency" if self.goal == "latency" else "throughput"

    def _used(self) -> float:
        return (monotonic() - self._started) / self._budget

    def _batches(self, choice: Choice) -> tuple[int, ...]:
        """An embedder meets faces alone and in groups, on one and the same way of running it."""
        joint = self.card.task == "face-embedding" and self._batch is None and self.goal != "latency"
        return (1, BATCH) if joint else (choice.batch,)

    def _ways(self, choice: Choice) -> list[Choice]:
        """Further ways to run a candidate that did well."""
        cores = os.cpu_count() or 1
        fewer = sorted({1, max(1, cores // 2)} - {cores})
        ways: list[dict[str, Any]] = [{"threads": count} for count in fewer] if choice.unit == "cpu" else []
        if self.goal != "latency":
            ways = [] if self.goal == "throughput" else ways
            ways += [{"policy": "latency"}, *({"streams": count} for count in sorted({1, 2, cores}))]
            if self.card.task == "classification" and self._batch is None:
                ways += [{"batch": count} for count in BATCHES]
        return [choice.model_copy(update=way) for way in ways]

    def _prepared(self, choice: Choice) -> bool:
        """Whether there is a model file for it. Conversions are kept, so their time is not of the budget."""
        self._told(f"preparing {choice.backend} {choice.precision}", 0.0)
        try:
            self._trials.prepare(choice)
        except (EngineError, OSError) as error:
            self._rows[choice] = Row(choice, "not tried", str(error))
            return False
        return True

    def _reference(self, choices: list[Choice]) -> _Stand:
        for choice in choices:
            if stand := self._stand(choice):
                return stand
        rows = sorted(self._rows.values(), key=lambda row: row.outcome == "not tried")
        reasons = "".join(f"\n  {row.choice.backend} {row.choice.precision}, {row.outcome}: {row.why}" for row in rows)
        raise EngineError(f"{self.card.name}: nothing here can run it{reasons}")

    def _stand(self, choice: Choice) -> _Stand | None:
        """The candidate loaded and past the gate, or None and the reason in its row."""
        row = self._rows.setdefault(choice, Row(choice, "measured"))
        engines: list[Engine] = []
        self._told(f"building {choice}", self._used())
        try:
            for batch in self._batches(choice):
                one = choice.model_copy(update={"batch": batch})
                engines.append(self._trials.open(one))
                warm(runner(engines[-1]))
                parity = self._trials.made(one).parity
                row.precision, row.why = engines[-1].precision, parity.note if parity is not None else ""
            return _Stand(row, engines)
        except (EngineError, OSError, MemoryError) as error:
            row.outcome = "refused" if isinstance(error, LessAccurateError) else "failed"
            row.why = str(error) or type(error).__name__
            for engine in engines:
                engine.close()
            return None

    def _compare(self, choices: list[Choice], reference: _Stand, share: float) -> None:
        """Measure each against the reference, until the share of the budget is used up."""
        for choice in choices:
            if choice in self._rows and choice != reference.row.choice:
                continue
            if self._used() > share and choice != reference.row.choice:
                self._rows[choice] = Row(choice, "not tried", self._used_up)
                continue
            stand = reference if choice == reference.row.choice else self._stand(choice)
            if stand is None:
                continue
            self._told(f"measuring {choice}", self._used())
            try:
                self._against(stand, reference)
            except EngineError as error:
                stand.row.outcome, stand.row.why = "failed", str(error)
            finally:
                if stand is not reference:
                    stand.close()

    def _against(self, stand: _Stand, reference: _Stand) -> None:
        """Reference, candidate, reference, candidate, reference: each turn is judged by its neighbours."""
        before, ratios, costs = self._cost(reference), [], []
        self._reference_costs.append(before)
        for _ in range(2):
            cost, after = self._cost(stand), self._cost(reference)
            ratios.append(2 * cost / (before + after))
            costs.append(cost)
            before = after
        self._note(stand.row, median(costs), median(ratios), 2)

    def _note(self, row: Row, cost: float, relative: float | None, rounds: int) -> None:
        row.cost, row.relative, row.rounds, row.temperature_c = cost, relative, row.rounds + rounds, temperature()

    def _best(self) -> list[Row]:
        measured = [row for row in self._rows.values() if row.outcome == "measured" and row.relative is not None]
        return sorted(measured, key=lambda row: row.relative or 0.0)

    def _cost(self, stand: _Stand) -> float:
        """The mean over its engines: as many pictures one at a time as in groups."""
        seconds = self._slice / len(stand.engines)
        return sum(self._measured(runner(engine), seconds) for engine in stand.engines) / len(stand.engines)

    def _measured(self, what: Runner, seconds: float) -> float:
        if self.goal == "latency":
            return single_stream(what, seconds, 1).p50_ms / 1e3
        if self.goal == "throughput":
            return 1 / offline(what, seconds, 1).per_second
        assert self._meter is not None
        with self._meter.run() as energy:
            done = offline(what, seconds)
        return energy[0].net_joules / done.samples

    def _final(self, choices: list[Choice]) -> Choice:
        """The best; of those that are as good, the most accurate, then the usual way. All rows are set in relation to it."""
        with ExitStack() as loaded:
            stands = [stand for choice in choices if (stand := self._stand(choice))]
            for stand in stands:
                loaded.callback(stand.close)
            if not stands:
                raise EngineError(f"{self.card.name}: none of the best candidates could be loaded again; `almena tune` shows why")
            ends = max(1.0, self._used() + 1 - WAYS_SHARE)
            best = final(stands, self._turn, lambda: self._used() >= ends)
        alike = [stand for stand in stands if relative(stand, best) <= 1 + ALIKE]
        winner = min(alike, key=lambda stand: _plainness(stand.row.way))
        unit = winner.row.relative or 1.0
        for row in self._rows.values():
            row.relative = row.relative / unit if row.relative is not None else None
        for stand in stands:
            self._note(stand.row, stand.cost, relative(stand, winner), len(stand.costs))
        return winner.row.choice

    def _turn(self, stand: _Stand) -> None:
        self._told("final", self._used())
        stand.costs.append(self._cost(stand))

    def _kept(self, winner: Choice) -> Tuned:
        """The winner's engines go into the store, so that the next start loads them."""
        row = self._rows[winner]
        row.outcome = "chosen"
        self._told(f"keeping {winner}", self._used())
        shop = Workshop(self.card, self._options, winner)
        judge = judge_of(self.card, self.card.input.sizes[0], self._options.models_dir)
        for batch in self._batches(winner):
            shop.open(self.card.input.sizes[0], judge, batch)[0].close()
        tuning = Tuning(
            model=self.card.model_id,
            size=self.card.input.sizes[0],
            goal=self.goal,
            fingerprint=fingerprint(self.card, shop.recipe, self._options.engines_dir, winner),
            choice=row.way,
            why=self._why(row),
            complete=not self._cut_short(),
            tuned_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
        save(tuning, self._options.engines_dir)
        self._drift()
        return Tuned(tuning, tuple(self._rows.values()), monotonic() - self._started, tuple(self._notes))

    def _why(self, winner: Row) -> str:
        tried = [row for row in self._rows.values() if row.cost is not None]
        others = [row for row in self._best() if (row.way.backend, row.way.precision) != (winner.way.backend, winner.way.precision)]
        text = f"best {self.goal} of {len(tried)} ways measured here: {_figure(self.goal, winner)}"
        if left := self._cut_short():
            text = f"only {len(tried)} of {len(tried) + left} ways could be tried in the budget of {self._budget:g} s"
            text += f", the best of them: {_figure(self.goal, winner)}"
        if others:
            text += f"; the next was {others[0].way.backend} {others[0].way.precision}: {_figure(self.goal, others[0])}"
        if late := self._untried() - self._cut_short():
            text += f"; {late} further {'ways' if late > 1 else 'way'} of running the best (threads, streams, batches) had no time"
        return text + (f"; {winner.why}" if winner.why else "")

    def _cut_short(self) -> int:
        """How many backends and precisions the budget left no time for."""
        return sum(row.why == self._used_up for choice, row in self._rows.items() if choice in self._first)

    def _untried(self) -> int:
        """How many ways of all kinds."""
        return sum(row.why == self._used_up for row in self._rows.values())

    @property
    def _used_up(self) -> str:
        return f"the budget of {self._budget:g} s was used up"

    def _drift(self) -> None:
        """Tell when the device was not the same from the beginning to the end."""
        costs = self._reference_costs
        if len(costs) >= 2 and max(costs) > (1 + SLOWED) * min(costs):
            now = temperature()
            heat = f", {now:.0f} °C" if now is not None else ""
            self._notes.append(
                f"the reference engine's own figures moved by {max(costs) / min(costs) - 1:.0%} while tuning{heat}: something else used the"
                " device, or it was throttled; ratios count here, not absolute figures"
            )


def _plainness(choice: Choice) -> tuple[int, int]:
    """Lower is more accurate, and then more usual."""
    return PRECISIONS.index(choice.precision), (choice.threads is not None) + (choice.streams is not None)


def shown(goal: Goal, cost: float | None) -> str:
    """A cost as a figure in the unit of UNITS; empty where there is none."""
    value = figure(goal, cost)
    if value is None:
        return ""
    return f"{1e3 * value:.3g}" if goal == "efficiency" else f"{value:.4g}"


def _figure(goal: Goal, row: Row) -> str:
    return f"{shown(goal, row.cost)} {UNITS[goal]}"
