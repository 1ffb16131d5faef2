"""The picture of a record: times on the left, the roofline on the right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from .ceilings import Ceilings
from .passes import PASSES, TITLES
from .record import Record, Table

MARKERS = {"forward": "o", "backward": "s", "double": "^"}
SHADES = {"forward": 1.0, "backward": 0.6, "double": 0.3}


def picture(record: Record, path: Path) -> None:
    """One problem: bars of all passes. Several: time of the forward pass against the problem. Beside it the roofline; to PNG."""
    timed = (row for table in record.tables for row in table.rows if row.passes)
    names = list(dict.fromkeys(row.name for row in timed))
    colours = _colours(names, {table.baseline for table in record.tables})
    many = len(record.tables) > 1
    height = 5.4 if many else max(4.6, 0.5 * len(names) + 1.6)
    figure, (left, right) = plt.subplots(
        ncols=2, figsize=(14.5 if many else 13, height), layout="constrained", width_ratios=(1.15, 1)
    )
    if many:
        _lines(left, record, names, colours)
    else:
        _bars(left, record.tables[0], names, colours)
    _roofline(right, record, names, colours, many)
    machine, dtype = record.machine, str(record.settings.dtype).removeprefix("torch.")
    threads = "" if machine["kind"] == "cuda" else f", {machine['threads']} thread(s)"
    told = record.tables[0].problem
    channels = {table.problem.spec.channels for table in record.tables}
    some = f", {channels.pop()} channels" if len(channels) == 1 else ""
    what = f"{told.kind}, {told.sizes()}{some}" if many else f"{told.name}: {told.spec}; {told.sizes()}"
    figure.suptitle(f"{what}\n{machine['device']}{threads}, {dtype}", fontsize=10)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _colours(names: list[str], baselines: set[str | None]) -> dict[str, Any]:
    pairs: Any = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]  # a full and a pale one of each
    full, pale = ([colour for n, colour in enumerate(pairs[first::2]) if n != 7] for first in (0, 1))  # no grey
    palette = iter([*full, *pale])
    return {name: "0.25" if name in baselines else next(palette, "0.6") for name in names}


def _bars(axis: Any, table: Table, names: list[str], colours: dict[str, Any]) -> None:
    rows = {row.name: row for row in table.rows if row.passes}
    width = 0.8 / len(PASSES)
    for n, name in enumerate(names):
        for k, one in enumerate(PASSES):
            found = rows[name].passes[one]
            if found.timing is None:
                continue
            low, high = found.timing.quartiles
            median, y = found.timing.median, n + (k - 1) * width
            spread = [[max(0.0, median - low) * 1e3], [max(0.0, high - median) * 1e3]]
            axis.barh(y, median * 1e3, width * 0.92, color=colours[name], alpha=SHADES[one])
            axis.errorbar(median * 1e3, y, xerr=spread, color="0.2", linewidth=0.8)
            if found.ratio is not None and name != table.baseline:
                text = f" {found.ratio.value:.2g}×" + (" !" if found.timing.unsteady else "")
                axis.text(max(median, high) * 1e3, y, text, va="center", fontsize=7.5)
    labels = [name + ("" if rows[name].same_function else " ≠") for name in names]
    axis.set_yticks(range(len(names)), labels, fontsize=9)
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.set_xscale("log")
    axis.set_xlim(right=axis.get_xlim()[1] * 2.2)
    axis.set_xlabel(
        f"ms per call; ×: times faster than {table.baseline}; !: unsteady\ntop to bottom: "
        + ", ".join(TITLES[one] for one in PASSES),
        fontsize=9,
    )
    _plain(axis)


def _lines(axis: Any, record: Record, names: list[str], colours: dict[str, Any]) -> None:
    labels = [table.problem.name for table in record.tables]
    for name in names:
        points = []
        for n, table in enumerate(record.tables):
            row = next((row for row in table.rows if row.name == name and row.passes), None)
            if row is not None and (timing := row.passes["forward"].timing) is not None:
                points.append((n, timing.median * 1e3, *(1e3 * value for value in timing.quartiles)))
        if not points:
            continue
        at, median, low, high = np.array(points).T
        spread = np.clip([median - low, high - median], 0, None)
        other = not all(row.same_function for table in record.tables for row in table.rows if row.name == name)
        style = {"linestyle": "--" if other else "-", "marker": "o", "markersize": 4, "linewidth": 1.4}
        axis.errorbar(at, median, yerr=spread, label=name + (" ≠" if other else ""), color=colours[name], **style)
    axis.set_xticks(range(len(labels)), labels, fontsize=8, rotation=30 if max(map(len, labels)) > 6 else 0)
    axis.set_yscale("log")
    axis.set_ylabel("ms per forward call", fontsize=9)
    axis.figure.legend(fontsize=8, frameon=False, loc="outside right center")
    _plain(axis)


def _roofline(axis: Any, record: Record, names: list[str], colours: dict[str, Any], many: bool) -> None:
    shown = ("forward",) if many else PASSES
    intensities: list[float] = []
    for name in names:
        for one in shown:
            points = _points(record, name, one)
            if points:
                x, y = np.array(points).T
                intensities += x.tolist()
                style = {"marker": MARKERS[one], "markersize": 6, "linewidth": 0.8, "linestyle": "-" if many else ""}
                axis.plot(x, y, color=colours[name], alpha=0.9, **style)
    axis.set_xscale("log")
    axis.set_yscale("log")
    _roofs(axis, [table.ceilings for table in record.tables if table.ceilings is not None], intensities)
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
    _plain(axis)


def _points(record: Record, name: str, one: str) -> list[tuple[float, float]]:
    """Operations per byte and GFLOP/s of a contender's pass, one point for every problem."""
    points = []
    for table in record.tables:
        row = next((row for row in table.rows if row.name == name), None)
        found = None if row is None else row.passes.get(one)
        if found is not None and found.timing is not None and found.flops:
            points.append((found.flops / found.bytes, found.flops / found.timing.median / 1e9))
    return points


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


def _plain(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, which="major")
