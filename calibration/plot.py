"""The comparison table as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engines.errors import MissingRuntimeError

SUFFIXES = (".png", ".svg")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Images a second of every row, a panel for each model, best on top. Raises MissingRuntimeError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingRuntimeError("a plot needs matplotlib, which is not installed: pip install 'almena[plot]'") from error
    models = list(dict.fromkeys(row["model"] for row in rows))
    backends = sorted({row["backend"] for row in rows})
    panels = {model: _bars(rows, model) for model in models}
    heights = [max(1, len(bars)) for bars in panels.values()]
    figure = Figure(figsize=(9, 1.2 + 0.28 * sum(heights) + 0.6 * len(models)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(models), 1, squeeze=False, height_ratios=heights)[:, 0]
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
