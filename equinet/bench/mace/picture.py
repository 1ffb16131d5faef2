"""Picture of the comparison with mace-torch: errors against their limits above, ratios of times below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from equinet.bench.core.picture import bare, new_figure, save
from equinet.bench.core.record import Record
from equinet.bench.core.report import caption

from .cases import SIZES_OF
from .errors import LIMITS
from .run import Cell

COLUMNS = {
    "double": ("equinet, float64", "#2166ac", "o"),
    "single": ("equinet, float32", "#c98a1b", "o"),
    "of_mace": ("mace-torch, float32", "#9aa3ad", "s"),
}
OF_CORRELATION = {1: "#a6bddb", 2: "#3690c0", 3: "#034e7b", 4: "#67001f"}
LEAST = 1e-17  # where an error of zero is drawn
WIDTH = 0.34  # of the cloud of points about its place


def picture(record: Record[Cell], path: Path) -> None:
    """A column of points for each family and max_L, one point a cell; forms outside the product have a column of their own; PNG."""
    columns = _columns(record.rows)
    figure = new_figure(max(6.5, 0.52 * len(columns) + 3.2), 6.6)
    errors, speed = figure.subplots(2, 1, sharex=True, height_ratios=[1.35, 1])
    for n, (_, cells) in enumerate(columns):
        spread = n + np.linspace(-WIDTH, WIDTH, len(cells)) if len(cells) > 1 else np.array([n])
        _errors(errors, spread, cells)
        _speed(speed, n, spread, cells)
    _limits(errors, len(columns))
    _legend_of_errors(errors)
    _axes_of_speed(speed, record.rows)
    _ticks(speed, columns)
    for axis in (errors, speed):
        bare(axis, "y")
        _separate(axis, columns)
    failed = sum(bool(cell.failures) for cell in record.rows)
    state = f"{failed} FAILED" if failed else "all agree"
    figure.suptitle(f"equinet reads mace-torch's models: {len(record.rows)} of them, {state}", fontsize=11)
    save(figure, path, caption(record))


def _columns(cells: Sequence[Cell]) -> list[tuple[tuple[str, str], list[Cell]]]:
    """Group cells by (family, max_L), then by published model; others are "other forms", files have their names."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        case = cell.case
        if case is None:
            key = ("", cell.problem)
        elif case.variant.startswith(SIZES_OF):
            key = ("sizes of published models", case.variant.removeprefix(SIZES_OF).replace(" ", "\n"))
        elif case.variant:
            key = ("", "other\nforms")
        else:
            key = (case.family, f"L={case.max_l}")
        groups.setdefault(key, []).append(cell)
    sequence = list(groups)
    families = [*dict.fromkeys(family for family, _ in groups if family), ""]
    order = sorted(
        groups, key=lambda key: (families.index(key[0]), key[1] if key[1].startswith("L=") else "", sequence.index(key))
    )
    return [(key, sorted(groups[key], key=lambda c: c.case.correlation if c.case else 0)) for key in order]


def _errors(axis: Axes, places: np.ndarray, cells: Sequence[Cell]) -> None:
    for column, (_, color, marker) in reversed(COLUMNS.items()):
        for place, cell in zip(places, cells):
            error = cell.worst(column)
            if error is None or not np.isfinite(error):
                continue
            if column == "double" and not all(one.double_counts for one in cell.errors):
                continue
            axis.plot([place], [max(error, LEAST)], marker=marker, color=color, markersize=3.2, markeredgewidth=0)
    for place, cell in zip(places, cells):
        if cell.failures:
            axis.axvline(place, color="#b2182b", linewidth=1.2, zorder=0)


def _limits(axis: Axes, count: int) -> None:
    for dtype, limit in LIMITS.items():
        axis.axhline(limit, color="#b2182b", linewidth=1, linestyle="--")
        axis.annotate(
            f"limit in {dtype}",
            (-0.6, limit),
            xytext=(2, 3),
            textcoords="offset points",
            fontsize=7.5,
            color="#b2182b",
        )
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, 1e-16), max(high, 1e-3))
    axis.set_xlim(-0.65, count - 0.35)
    axis.set_ylabel("largest relative error against\nmace-torch in float64", fontsize=9)


def _legend_of_errors(axis: Axes) -> None:
    for label, color, marker in COLUMNS.values():
        axis.plot([], [], linestyle="", marker=marker, color=color, markersize=5, label=label)
    axis.legend(frameon=False, fontsize=8, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.99), borderaxespad=0)


def _speed(axis: Axes, column: int, places: np.ndarray, cells: Sequence[Cell]) -> None:
    ratios = []
    for place, cell in zip(places, cells):
        if cell.over_equinet is None:
            continue
        ratios.append(cell.over_equinet.value)
        color = OF_CORRELATION[cell.case.correlation] if cell.case else "0.3"
        axis.vlines(place, cell.over_equinet.low, cell.over_equinet.high, color=color, linewidth=0.7, alpha=0.35)
        axis.plot([place], [cell.over_equinet.value], marker="o", color=color, markersize=3.4, markeredgewidth=0)
    if ratios:
        median = float(np.median(ratios))
        axis.hlines(median, column - WIDTH, column + WIDTH, color="0.15", linewidth=1.4, zorder=4)
        axis.annotate(
            f"{median:.1f}",
            (column + WIDTH, median),
            xytext=(4, -2),
            textcoords="offset points",
            fontsize=7,
            color="0.15",
        )


def _axes_of_speed(axis: Axes, cells: Sequence[Cell]) -> None:
    ratios = [cell.over_equinet for cell in cells if cell.over_equinet is not None]
    axis.set_yscale("log")
    low = min([0.8, *(ratio.low * 0.9 for ratio in ratios)])
    high = max([4.0, *(ratio.high * 1.15 for ratio in ratios)])
    axis.set_ylim(low, high)
    axis.axhline(1, color="0.4", linewidth=1)
    axis.yaxis.set_major_locator(FixedLocator([0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100]))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axis.set_ylabel("mace-torch's time over equinet's,\nenergy + forces, float32", fontsize=9)
    for correlation in sorted({cell.case.correlation for cell in cells if cell.case}):
        color = OF_CORRELATION[correlation]
        axis.plot([], [], linestyle="", marker="o", color=color, markersize=5, label=f"correlation {correlation}")
    axis.plot([], [], color="0.15", linewidth=1.4, label="median")
    axis.legend(frameon=False, fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 0.99), borderaxespad=0)


def _ticks(axis: Axes, columns: Sequence[tuple[tuple[str, str], list[Cell]]]) -> None:
    """max_L below every column, the family once below its columns."""
    axis.set_xticks(range(len(columns)), [label for (_, label), _ in columns], fontsize=8)
    axis.tick_params(axis="x", length=0)
    families = [family for (family, _), _ in columns]
    for family in dict.fromkeys(families):
        places = [n for n, name in enumerate(families) if name == family]
        axis.annotate(
            family.replace("+", " +\n"),
            (float(np.mean(places)), 0),
            xycoords=("data", "axes fraction"),
            xytext=(0, -30),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=9,
        )


def _separate(axis: Axes, columns: Sequence[tuple[tuple[str, str], list[Cell]]]) -> None:
    for n in range(1, len(columns)):
        if columns[n][0][0] != columns[n - 1][0][0]:
            axis.axvline(n - 0.5, color="0.85", linewidth=0.8, zorder=0)
