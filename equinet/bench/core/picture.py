"""Style and helpers of all pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from equinet.runs.files import replace_picture

from . import COMPILED, CUEQUIVARIANCE, EAGER, EQUINET

STYLES: dict[str, dict[str, Any]] = {
    EQUINET: {"color": "#2166ac", "marker": "o"},
    EAGER: {"color": "#8a94a0", "marker": "s"},
    CUEQUIVARIANCE: {"color": "#c98a1b", "marker": "D"},
    COMPILED: {"color": "#7b5ea7", "marker": "^"},
}


def new_figure(width: float, height: float) -> Figure:
    """A figure of so many inches that arranges its parts itself."""
    return Figure(figsize=(width, height), layout="constrained")


def bare(axis: Axes, grid: str = "both") -> None:
    """Only the lines that are needed: no frame on top and right, a pale grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25, which="major", axis=grid)  # type: ignore[arg-type]
    axis.set_axisbelow(True)


def plain_numbers(*axes: Any) -> None:
    """Write 0.001 and 1,000 on logarithmic axes, and nothing at their small ticks."""
    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())


def save(figure: Figure, path: Path, caption: str = "") -> None:
    """Write a PNG file with a caption at the bottom."""
    if caption:
        figure.supxlabel(caption, fontsize=7, color="0.4")
    replace_picture(path, figure, dpi=150)
