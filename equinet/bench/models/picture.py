"""Pictures of what was measured of whole models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from equinet.bench.core import EAGER, EQUINET
from equinet.bench.core.picture import STYLES, bare, new_figure, plain_numbers, save
from equinet.bench.core.record import Record
from equinet.bench.core.report import caption

from .run import Row
from .runners import DYNAMICS, FORCES, TRAINING

PANELS = ((TRAINING, "training step"), (FORCES, "energy + forces"), (DYNAMICS, "MD step"))


def picture(record: Record[Row], path: Path) -> None:
    """Times of the three tasks and memory of training, a line for each model and structure, logarithmic, to PNG."""
    rows = record.rows
    lines = list(dict.fromkeys((row.model, row.problem) for row in rows))
    figure = new_figure(12.5, 0.36 * len(lines) + 2.1)
    axes = figure.subplots(1, 4, sharey=True)
    for axis, (task, title) in zip(axes, PANELS):
        values = {(r.model, r.problem, r.contender): r.timing.median for r in rows if r.task == task and r.timing}
        ratios = {
            (r.model, r.problem): r.over_equinet.value
            for r in rows
            if r.task == task and r.contender == EAGER and r.over_equinet
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
    save(figure, path, caption(record))


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
    plain_numbers(axis.xaxis)
    axis.set_xlabel(label, fontsize=9)
    axis.tick_params(labelsize=8)
    bare(axis, "x")


def size_picture(record: Record[Row], path: Path, legends: Mapping[str, tuple[str, str]]) -> None:
    """Cost against size: seconds and memory, both logarithmic, with lines of slope one for the eye.

    Args:
        record: Rows of several sizes.
        path: PNG file.
        legends: Suffixes of each contender's name, for seconds and for bytes.
    """
    figure = new_figure(9.6, 4.2)
    for n, axis in enumerate(figure.subplots(1, 2)):
        for name, legend in legends.items():
            rows = record.of(contender=name)
            if n == 0:
                found = [(row.atoms, row.timing.median) for row in rows if row.timing]
            else:
                found = [(row.atoms, row.peak / 1e6) for row in rows if row.peak]
            if not found:
                continue
            axis.plot(*zip(*found), linewidth=1.2, markersize=5, label=name + legend[n], **STYLES[name])
            (first, _), (last, value) = found[0], found[-1]
            axis.plot(
                [first, last], [value * first / last, value], color="0.75", linewidth=0.8, linestyle=":", zorder=0
            )
        label = ("energy + forces, seconds", "peak memory, MB")[n]
        axis.set(xscale="log", yscale="log", xlabel="atoms", ylabel=label)
        axis.set_xticks(sorted({row.atoms for row in record.rows}))
        plain_numbers(axis.xaxis, axis.yaxis)
        axis.tick_params(axis="x", labelsize=8, rotation=45)
        bare(axis)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(frameon=False, fontsize=8)
    save(figure, path, caption(record))
