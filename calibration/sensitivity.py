"""Which nodes of a quantised model hurt its outputs most."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from calibration.noise import Measure, outputs
from calibration.pairs import DEQUANTISE, alone
from calibration.ranges import Progress
from engines.results import F32

log = logging.getLogger(__name__)

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def sensitivities(
    original: Any,
    quantised: Any,
    samples: Sequence[F32],
    measure: Measure,
    budget_s: float,
    progress: Progress = lambda done, total: None,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, float]:
    """By node: the noise when that node alone is quantised, over the noise when all are; largest first.

    Measured one at a time in an otherwise FP32 model, because noise that several nodes make hides what each of them does.
    `original`: the FP32 model, `quantised`: its QDQ twin, with nodes of the same names. Nodes with weights come first; what `budget_s`
    does not reach is not in the table, and that is logged.
    """
    reference = outputs(original, samples)
    whole = measure(reference, outputs(quantised, samples))
    table: dict[str, float] = {}
    if whole <= 0:
        return table
    ends = clock() + budget_s
    waiting = sorted(quantised_nodes(quantised), key=lambda node: node.op_type not in WEIGHTED)
    for done, node in enumerate(waiting):
        if clock() > ends:
            log.warning("sensitivity: %d of %d nodes were measured in %.0f s", done, len(waiting), budget_s)
            break
        table[node.name] = round(measure(reference, outputs(alone(original, quantised, node.name), samples)) / whole, 4)
        progress(done + 1, len(waiting))
    return dict(sorted(table.items(), key=lambda entry: -entry[1]))


def quantised_nodes(quantised: Any) -> list[Any]:
    """Nodes that read a dequantised tensor, and do more than to pass it on."""
    read = {name for node in quantised.graph.node if node.op_type == DEQUANTISE for name in node.output}
    kinds = (*WEIGHTED, "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Resize")
    return [node for node in quantised.graph.node if node.op_type in kinds and set(node.input) & read]
