"""Pictures of what was measured of whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from .contenders import DYNAMICS, EQUINET, FORCES, TRAINING
from .mace_peer import COMPILED, CUEQUIVARIANCE, EAGER
from .model import Row

STYLES: dict[str, dict[str, Any]] = {
    EQUINET: {"color": "#2166ac", "marker": "o"},
    EAGER: {"color": "#8a94a0", "marker": "s"},
    CUEQUIVARIANCE: {"color": "#c98a1b", "marker": "D"},
    COMPILED: {"color": "#7b5ea7", "marker": "^"},
}
PANELS = ((TRAINING, "training step"), (FORCES, "energy + forces"), (DYNAMICS, "MD step"))


def picture(rows: Sequence[Row], caption: str, path: Path) -> None:
    """Times of the three tasks and memory of training, a line for each model and structure, logarithmic, to PNG."""
    lines = list(dict.fromkeys((row.model, row.problem) for row in rows))
    figure = Figure(figsize=(12.5, 0.36 * len(lines) + 2.1), layout="constrained")
    axes = figure.subplots(1, 4, sharey=True)
    for axis, (task, title) in zip(axes, PANELS):
        values = {(r.model, r.problem, r.contender): r.timing.median for r in rows if r.task == task and r.timing}
        ratios = {
            (r.model, r.problem): r.ratio.value for r in rows if r.task == task and r.contender == EAGER and r.ratio
        }
        _panel(axis, lines, values, ratios, f"{title}, seconds")
    peaks = {(r.model, r.problem, r.contender): r.peak / 1e6 for r in rows if r.task == TRAINING and r.peak}
    ratios = {
        line: peaks[(*line, EAGER)] / peaks[(*line, EQUINET)]
        for line in lines
        if {(*line, EAGER), (*line, EQUINET)} <= peaks.keys()
    }
    _panel(axes[3], lines, peaks, ratios, "peak memory of training, MB")
    labels = [
        problem if n and lines[n - 1][0] == model else f"{model}\n{problem}" for n, (model, problem) in enumerate(lines)
    ]
    axes[0].set_yticks(range(len(lines)), labels, fontsize=8)
    axes[0].set_ylim(len(lines) - 0.4, -0.6)
    handles, names = next(
        (axis.get_legend_handles_labels() for axis in axes if axis.get_legend_handles_labels()[1]), ([], [])
    )
    if names:
        figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False, fontsize=9)
    figure.supxlabel(caption, fontsize=7, color="0.4")
    figure.savefig(path, dpi=150)


def _panel(
    axis: Axes,
    lines: Sequence[tuple[str, str]],
    values: Mapping[tuple[str, str, str], float],
    ratios: Mapping[tuple[str, str], float],
    label: str,
) -> None:
    """One quantity: a mark for each contender, and between equinet and mace-torch their ratio."""
    for name, style in STYLES.items():
        points = [(values[(*line, name)], n) for n, line in enumerate(lines) if (*line, name) in values]
        if points:
            axis.plot(*zip(*points), linestyle="", markersize=6, label=name, zorder=3, **style)
    for n, line in enumerate(lines):
        here = [value for (model, problem, _), value in values.items() if (model, problem) == line]
        if len(here) > 1:
            axis.hlines(n, min(here), max(here), color="0.85", linewidth=2, zorder=1)
        if line in ratios:
            axis.annotate(
                f"{ratios[line]:.3g}x",
                ((values[(*line, EQUINET)] * values[(*line, EAGER)]) ** 0.5, n),
                textcoords="offset points",
                xytext=(0, 3),
                ha="center",
                fontsize=7,
                color="0.25",
            )
    axis.set_xscale("log")
    axis.margins(x=0.12)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel(label, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def size_picture(
    series: Mapping[str, Sequence[tuple[int, float | None, float | None]]],
    legends: Mapping[str, tuple[str, ...]],
    caption: str,
    path: Path,
) -> None:
    """Cost against size: seconds and memory, both logarithmic, with lines of slope one for the eye.

    Args:
        series: By contender (atoms, seconds or None, bytes or None).
        legends: By contender what follows its name, for seconds and for bytes.
        caption: Below.
        path: PNG file.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    for axis, column, scale, label in zip(
        figure.subplots(1, 2), (1, 2), (1.0, 1e6), ("energy + forces, seconds", "peak memory, MB")
    ):
        for name, points in series.items():
            found = [(point[0], value / scale) for point in points if (value := point[column]) is not None]
            if not found:
                continue
            label_of = name + legends[name][column - 1]
            axis.plot(*zip(*found), linewidth=1.2, markersize=5, label=label_of, **STYLES[name])
            n, value = found[-1]
            first = found[0][0]
            axis.plot([first, n], [value * first / n, value], color="0.75", linewidth=0.8, linestyle=":", zorder=0)
        axis.set(xscale="log", yscale="log", xlabel="atoms", ylabel=label)
        axis.set_xticks(sorted({point[0] for points in series.values() for point in points}))
        for formatter in (axis.xaxis, axis.yaxis):
            formatter.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            formatter.set_minor_formatter(NullFormatter())
        axis.tick_params(axis="x", labelsize=8, rotation=45)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(frameon=False, fontsize=8)
    figure.supxlabel(caption, fontsize=7, color="0.4")
    figure.savefig(path, dpi=150)
