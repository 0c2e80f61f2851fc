"""Figures as pictures: the comparison table, and how a classifier does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from calibration.classification import BINS, F64, ClassifierReport, Places
from engines.errors import MissingRuntimeError

SUFFIXES = (".png", ".svg")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Images a second of every row, a panel for each model, best on top. Raises MissingRuntimeError without matplotlib."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    backends = sorted({row["backend"] for row in rows})
    panels = {model: _bars(rows, model) for model in models}
    heights = [max(1, len(bars)) for bars in panels.values()]
    figure, axes = canvas((9, 1.2 + 0.28 * sum(heights) + 0.6 * len(models)), len(models), 1, height_ratios=heights)
    for axis, (model, bars) in zip(axes, panels.items(), strict=True):
        colours = [f"C{backends.index(name.split()[0])}" for name, _ in bars]
        drawn = axis.barh([name for name, _ in bars], [value for _, value in bars], color=colours)
        axis.bar_label(drawn, fmt="%.4g", padding=3, fontsize=8)
        axis.set_title(model, loc="left", fontsize=10)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("images a second")
    figure.savefig(path, dpi=144)


def canvas(size: tuple[float, float], rows: int, columns: int, **layout: Any) -> tuple[Any, list[Any]]:
    """An empty figure of `size` inches and its axes, row by row. Raises MissingRuntimeError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingRuntimeError("a plot needs matplotlib, which is not installed: pip install 'almena[plot]'") from error
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **layout).flat)


def _bars(rows: list[dict[str, Any]], model: str) -> list[tuple[str, float]]:
    """Names and rates of a model's rows, the slowest first: bars grow from below."""
    found = [row for row in rows if row["model"] == model and row["throughput_per_second"]]
    named = [
        (
            f"{row['backend']} {row['unit']} {row['precision']} x{row['batch']}{' (tuned)' if row['tuned'] else ''}",
            row["throughput_per_second"],
        )
        for row in found
    ]
    return sorted(named, key=lambda pair: pair[1])


def plot_classifier(report: ClassifierReport, probabilities: F64, truth: Places, path: Path) -> None:
    """The confusion matrix, the ROC curve of the positive class where there is one, and how often probabilities are right.

    `probabilities` (N, L) and `truth` (N,) are those that the report is of. Raises MissingRuntimeError without matplotlib.
    """
    figure, axes = canvas((13 if report.positive else 9, 4), 1, 3 if report.positive else 2)
    _draw_confusion(axes[0], report)
    _draw_reliability(axes[1], probabilities, truth)
    if report.positive:
        place = report.confusion.labels.index(report.positive.label)
        _draw_roc(axes[2], report, probabilities[:, place], truth == place)
    figure.savefig(path, dpi=144)


def _draw_confusion(axis: Any, report: ClassifierReport) -> None:
    counts, labels = np.array(report.confusion.counts), report.confusion.labels
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axis.text(column, row, f"{counts[row, column]}\n{shares[row, column]:.0%}", ha="center", va="center", color=colour)
    axis.set_xticks(range(len(labels)), labels)
    axis.set_yticks(range(len(labels)), labels)
    axis.set_xlabel(report.confusion.columns)
    axis.set_ylabel(report.confusion.rows)
    axis.set_title(f"accuracy {report.accuracy.value:.3f} of {report.pictures}", fontsize=10)


def _draw_reliability(axis: Any, probabilities: F64, truth: Places) -> None:
    sure, right = probabilities.max(1), probabilities.argmax(1) == truth
    held = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
    for place in np.unique(held):
        inside = held == place
        axis.plot(sure[inside].mean(), right[inside].mean(), "o", color="C0", markersize=3 + 12 * np.sqrt(inside.mean()))
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    axis.set(xlim=(0, 1), ylim=(0, 1.03), xlabel="probability of the answer", ylabel="share of right answers")
    axis.set_title("area: share of the pictures", fontsize=10)


def _draw_roc(axis: Any, report: ClassifierReport, scores: F64, positive: Places) -> None:
    figures = report.positive
    assert figures is not None
    order = np.argsort(-scores, kind="stable")
    hits, alarms = np.cumsum(positive[order]), np.cumsum(~positive[order].astype(bool))
    axis.step([0, *(alarms / max(alarms[-1], 1))], [0, *(hits / max(hits[-1], 1))], where="post")
    if figures.sensitivity.value is not None and figures.specificity.value is not None:
        axis.plot([1 - figures.specificity.value], [figures.sensitivity.value], "o", color="C1")
    axis.set(xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="1 - specificity", ylabel=f"sensitivity for {figures.label}")
    if figures.roc_auc.value is not None:
        axis.set_title(f"area {figures.roc_auc.value:.3f}; point: where it decides", fontsize=10)
