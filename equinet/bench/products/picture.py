"""The picture of a record: times on the left, the roofline on the right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.lines import Line2D

from equinet.bench.core.picture import bare, new_figure, save
from equinet.bench.core.record import Record
from equinet.bench.core.report import where

from .ceilings import Ceilings
from .passes import PASSES, TITLES
from .run import Measured, Row

MARKERS = {"forward": "o", "backward": "s", "double": "^"}
SHADES = {"forward": 1.0, "backward": 0.6, "double": 0.3}


def picture(record: Record[Row], path: Path) -> None:
    """One problem: bars of all passes. Several: time of the forward pass against the problem. Beside it the roofline; to PNG."""
    problems = record.problems
    names = list(dict.fromkeys(row.contender for row in record.rows if row.timing))
    colours = _colours(names, {problem.baseline for problem in problems})
    many = len(problems) > 1
    figure = new_figure(14.5 if many else 13, 5.4 if many else max(4.6, 0.5 * len(names) + 1.6))
    left, right = figure.subplots(ncols=2, width_ratios=(1.15, 1))
    if many:
        _lines(left, record, names, colours)
    else:
        _bars(left, record, problems[0], names, colours)
    _roofline(right, record, names, colours, many)
    told, channels = problems[0], {problem.channels for problem in problems}
    some = f", {channels.pop()} channels" if len(channels) == 1 else ""
    what = f"{told.kind}, {told.sizes}{some}" if many else f"{told.name}: {told.spec}; {told.sizes}"
    figure.suptitle(f"{what}\n{where(record)}, {record.settings.dtype}", fontsize=10)
    save(figure, path)


def _colours(names: list[str], baselines: set[str | None]) -> dict[str, Any]:
    pairs: Any = matplotlib.colormaps["tab20"].colors  # type: ignore[attr-defined]  # a full and a pale one of each
    full, pale = ([colour for n, colour in enumerate(pairs[first::2]) if n != 7] for first in (0, 1))  # no grey
    palette = iter([*full, *pale])
    return {name: "0.25" if name in baselines else next(palette, "0.6") for name in names}


def _label(record: Record[Row], name: str) -> str:
    return name + ("" if all(row.same_function for row in record.of(contender=name)) else " ≠")


def _bars(axis: Any, record: Record[Row], problem: Measured, names: list[str], colours: dict[str, Any]) -> None:
    width = 0.8 / len(PASSES)
    for row in record.rows:
        if row.timing is None:
            continue
        low, high = row.timing.quartiles
        median, y = row.timing.median, names.index(row.contender) + (PASSES.index(row.task) - 1) * width
        spread = [[max(0.0, median - low) * 1e3], [max(0.0, high - median) * 1e3]]
        axis.barh(y, median * 1e3, width * 0.92, color=colours[row.contender], alpha=SHADES[row.task])
        axis.errorbar(median * 1e3, y, xerr=spread, color="0.2", linewidth=0.8)
        if row.times_faster is not None and row.contender != problem.baseline:
            text = f" {row.times_faster.value:.2g}×" + (" !" if row.unsteady else "")
            axis.text(max(median, high) * 1e3, y, text, va="center", fontsize=7.5)
    axis.set_yticks(range(len(names)), [_label(record, name) for name in names], fontsize=9)
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.set_xscale("log")
    axis.set_xlim(right=axis.get_xlim()[1] * 2.2)
    axis.set_xlabel(
        f"ms per call; ×: times faster than {problem.baseline}; !: unsteady\ntop to bottom: "
        + ", ".join(TITLES[one] for one in PASSES),
        fontsize=9,
    )
    bare(axis)


def _lines(axis: Any, record: Record[Row], names: list[str], colours: dict[str, Any]) -> None:
    labels = [problem.name for problem in record.problems]
    for name in names:
        timed = [(row, row.timing) for row in record.of(contender=name, task="forward") if row.timing]
        points = [
            (labels.index(row.problem), t.median * 1e3, *(1e3 * value for value in t.quartiles)) for row, t in timed
        ]
        if not points:
            continue
        at, median, low, high = np.array(points).T
        spread = np.clip([median - low, high - median], 0, None)
        label = _label(record, name)
        style = {"linestyle": "--" if label != name else "-", "marker": "o", "markersize": 4, "linewidth": 1.4}
        axis.errorbar(at, median, yerr=spread, label=label, color=colours[name], **style)
    axis.set_xticks(range(len(labels)), labels, fontsize=8, rotation=30 if max(map(len, labels)) > 6 else 0)
    axis.set_yscale("log")
    axis.set_ylabel("ms per forward call", fontsize=9)
    axis.figure.legend(fontsize=8, frameon=False, loc="outside right center")
    bare(axis)


def _roofline(axis: Any, record: Record[Row], names: list[str], colours: dict[str, Any], many: bool) -> None:
    shown = ("forward",) if many else PASSES
    intensities: list[float] = []
    for name in names:
        for one in shown:
            timed = [
                (row, row.timing.median) for row in record.of(contender=name, task=one) if row.timing and row.flops
            ]
            if timed:
                x = [(row.flops or 0) / row.bytes for row, _ in timed]
                y = [(row.flops or 0) / seconds / 1e9 for row, seconds in timed]
                intensities += x
                style = {"marker": MARKERS[one], "markersize": 6, "linewidth": 0.8, "linestyle": "-" if many else ""}
                axis.plot(x, y, color=colours[name], alpha=0.9, **style)
    axis.set_xscale("log")
    axis.set_yscale("log")
    _roofs(axis, [problem.ceilings for problem in record.problems if problem.ceilings is not None], intensities)
    axis.set_xlabel("useful operations per least byte" + (", forward" if many else ""), fontsize=9)
    axis.set_ylabel("useful GFLOP/s", fontsize=9)
    if not many:
        axis.set_ylim(top=3 * axis.get_ylim()[1])
        marks = [Line2D([], [], marker=MARKERS[one], color="0.4", linestyle="", label=TITLES[one]) for one in PASSES]
        axis.legend(
            handles=marks,
            title="colours as on the left",
            fontsize=8,
            title_fontsize=8,
            frameon=False,
            loc="upper left",
            ncols=3,
        )
    bare(axis)


def _roofs(axis: Any, ceilings: list[Ceilings], intensities: list[float]) -> None:
    peak = max(roof.flops for roof in ceilings) / 1e9
    far, near = (max(getattr(roof, kind) for roof in ceilings) / 1e9 for kind in ("bandwidth", "in_cache"))
    low = min(min(intensities, default=1.0), peak / near / 4) / 6
    x = np.geomspace(low, max(2 * max(intensities, default=1.0), 4 * peak / far), 200)
    axis.plot(x, np.minimum(peak, far * x), color="0.35", linewidth=1.4)
    small: dict[str, Any] = {"fontsize": 8, "textcoords": "offset points"}
    at = (peak / far / 25, peak / 25)
    axis.annotate(f"{far:.3g} GB/s, memory", at, color="0.35", va="top", xytext=(6, 0), **small)
    if near > 1.15 * far:
        axis.plot(x, np.minimum(peak, near * x), color="0.6", linewidth=1, linestyle="--")
        at = (peak / near / 4, peak / 4)
        axis.annotate(f"{near:.3g} GB/s, cache", at, color="0.5", ha="right", va="bottom", xytext=(-6, 0), **small)
    text = f"{peak:.3g} GFLOP/s, matrix product"
    axis.annotate(text, (x[-1], peak), color="0.35", ha="right", va="bottom", xytext=(0, 2), **small)
    axis.set_ylim(top=3 * peak)
