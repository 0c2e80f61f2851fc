"""Whether the pictures of a batch fit into memory, asked before a training begins."""

from __future__ import annotations

import logging
from math import prod
from typing import Any

import psutil

log = logging.getLogger(__name__)

COPIES = 3
"""Of every layer's output: itself, its gradient, and what a convolution works in. A guess on the safe side."""
BYTES = 4
LEAST = 2


def fitting_batch(model: Any, wanted: int, workers: int = 1, free: int | None = None) -> int:
    """`wanted`, or the half, quarter … of it that `free` bytes (default: of this machine) hold. Several workers keep what is wanted."""
    if workers > 1:
        return wanted
    room = psutil.virtual_memory().available if free is None else free
    each = BYTES * COPIES * numbers(model)
    batch = wanted
    while batch > LEAST and batch * each > room:
        batch //= 2
    if batch < wanted:
        log.warning("%d pictures at once instead of %d: memory of %d MB holds no more", batch, wanted, room >> 20)
    return batch


def numbers(model: Any) -> int:
    """Of all layers' outputs for one picture, those of models inside included."""
    total = 0
    for layer in model.layers:
        inner = getattr(layer, "layers", None)
        outputs = layer.output if isinstance(layer.output, (list, tuple)) else [layer.output]
        total += numbers(layer) if inner else sum(prod(size or 1 for size in output.shape) for output in outputs)
    return total
