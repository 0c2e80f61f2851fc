"""Which nodes of a quantised model have to stay in float."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from calibration.errors import CalibrationError
from calibration.gate import Verdict
from calibration.quantise import Quantiser
from calibration.ranges import Progress
from calibration.sensitivity import WEIGHTED, quantised_nodes
from engines.calibrated import Flavour, Ranges

log = logging.getLogger(__name__)

NAMED = 5
"""Nodes that a rejection names."""

Judged = Callable[[Path], dict[str, Verdict]]
"""By backend, what the gate says of a QDQ file."""


def reasons(verdicts: Mapping[str, Verdict]) -> str:
    """Why backends refuse it; empty where none does."""
    return "; ".join(f"{name}: {verdict.why}" for name, verdict in verdicts.items() if verdict.why)


class RejectedError(CalibrationError):
    """No mix of INT8 and float passed the gate."""


class Search:
    """For the fewest nodes in float with which the gate lets the model through: 0, 1, 2, 4 …, then between.

    Of each number, first the most sensitive nodes are tried, then those next to the model's input and outputs: noise that many nodes make
    together is not seen where each is measured alone, and it is made at the ends, where values are few or stand for positions. When the
    budget is over, the largest number is tried and what passed is taken; `cut_short` says so.

    What is refused later, by samples that take no part in this, goes on with `further`: twice as many at least.
    """

    def __init__(
        self,
        quantiser: Quantiser,
        flavour: Flavour,
        ranges: Ranges,
        nodes: list[str],
        judged: Judged,
        folder: Path,
        budget_s: float,
        progress: Progress = lambda done, total: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`nodes`: the most sensitive first. `folder`: for the files."""
        self._quantiser, self._flavour, self._ranges = quantiser, flavour, ranges
        self._judged, self._folder, self._progress = judged, folder, progress
        self._clock, self._budget_s, self._ends = clock, budget_s, clock() + budget_s
        placed = [name for name in quantiser.nodes if name in set(nodes)]
        outermost = sorted(nodes, key=lambda name: min(placed.index(name), len(placed) - 1 - placed.index(name)))
        self._orders = nodes, outermost
        self.tried: list[tuple[int, str]] = []
        """Nodes left in float, and why that was refused."""
        self.cut_short = ""

    def run(self) -> tuple[list[str], Path]:
        """The nodes in float, and the QDQ file. Raises RejectedError."""
        failed = -1
        for count in self._counts():
            for order in self._orders[: 1 if count == 0 else None]:
                if self._passes(order[:count]):
                    return self._between(order, failed, count)
            failed = count
        raise self._rejected()

    def further(self, count: int, why: str) -> tuple[list[str], Path]:
        """The same after `count` nodes in float were refused by other samples, and `why`: with more of them. Raises RejectedError.

        The fewest are not looked for again: each refusal lets a little of those samples into the choice.
        """
        self.tried.append((count, why))
        self.cut_short = ""
        for more in self._counts(count):
            for order in self._orders:
                if self._passes(order[:more]):
                    if self._over():
                        self._cut(more, len(order), count)
                    return order[:more], self._file(more)
        raise self._rejected()

    def _counts(self, above: int = -1) -> Iterator[int]:
        """How many nodes are to be tried; only the last once the budget is over."""
        most = len(self._orders[0]) * 2 // 3
        powers = (2**power for power in range(most.bit_length()) if 2**power < most)
        for count in dict.fromkeys((0, *powers, most)):
            if count > above and (count in (0, most) or (count >= 2 * above and not self._over())):
                yield count

    def _rejected(self) -> RejectedError:
        nodes = self._orders[0]
        (_, first), (count, last) = self.tried[0], self.tried[-1]
        still = f"; with {count} of {len(nodes)} nodes in float still: {last}" if count else ""
        return RejectedError(
            f"{self._quantiser.name}: INT8 ({self._flavour}) is refused: {first}{still}. The most sensitive nodes are"
            f" {', '.join(nodes[:NAMED])}. Calibrate with more, and more typical, pictures, or with --labels, where right answers count"
            " and not how near the outputs are; or leave the model in float."
        )

    def _cut(self, best: int, of: int, failed: int) -> None:
        self.cut_short = (
            f"the {max(0.0, self._budget_s):.0f} s that the budget left for the search were over: {best} of"
            f" {of} nodes stay in float, where between {failed + 1} and {best - 1} may do; a longer --budget finds out"
        )
        log.warning("%s: %s", self._quantiser.name, self.cut_short)

    def _between(self, order: list[str], failed: int, best: int) -> tuple[list[str], Path]:
        while best - failed > 1:
            if self._over():
                self._cut(best, len(order), failed)
                break
            count = (failed + best) // 2
            if self._passes(order[:count]):
                best = count
            else:
                failed = count
        return order[:best], self._file(best)

    def _over(self) -> bool:
        return self._clock() > self._ends

    def _file(self, count: int) -> Path:
        return self._folder / f"{self._flavour}-{count}.onnx"

    def _passes(self, float_nodes: list[str]) -> bool:
        """Whether the gate lets it through with these in float; the file is kept then."""
        import onnx

        count = len(float_nodes)
        self._progress(count, max(1, len(self._orders[0])))
        model = self._quantiser.quantised(self._flavour, self._ranges, float_nodes)
        if any(node.op_type in WEIGHTED for node in quantised_nodes(model)):
            onnx.save(model, str(self._file(count)))
            why = reasons(self._judged(self._file(count)))
        else:
            why = "no weight would be in 8 bits, so it were no INT8 model"
        if why:
            log.info("%s with %d nodes in float is refused: %s", self._flavour, count, why)
            self.tried.append((count, why))
        return not why
