"""Pictures of a training and of a classifier's figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from calibration.plot import canvas
from training.state import Epoch


def curves(histories: Mapping[str, Sequence[Epoch]], path: Path) -> None:
    """Losses and validation accuracy of every network by epoch. Raises MissingRuntimeError without matplotlib."""
    figure, (left, right) = canvas((10, 4), 1, 2)
    for place, (name, history) in enumerate(histories.items()):
        epochs = [one.epoch for one in history]
        left.plot(epochs, [one.loss for one in history], color=f"C{place}", linestyle=":", linewidth=1)
        left.plot(epochs, [one.validation_loss for one in history], color=f"C{place}", label=name)
        right.plot(epochs, [one.validation_accuracy for one in history], color=f"C{place}", label=name)
        best = min(history, key=lambda one: one.validation_loss)
        left.plot([best.epoch], [best.validation_loss], "o", color=f"C{place}")
    left.set_ylabel("loss: dotted in training, line in validation")
    right.set_ylabel("validation accuracy")
    for axis in (left, right):
        axis.set_xlabel("epoch")
        axis.spines[["top", "right"]].set_visible(False)
    right.legend(fontsize=8)
    figure.savefig(path, dpi=144)
