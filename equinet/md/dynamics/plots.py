"""A run at a glance: temperature and energy along the time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from equinet.runs.files import replace_picture

from .record import Summary
from .restart import read_run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#222222"
MUTED = "#777777"
TEMPERATURE = "#c2410c"
ENERGY = "#1d4ed8"

# A running mean over this share of the run shows where it is going; below this many frames there is nothing to smooth.
SMOOTH_SHARE = 1 / 25
SMOOTH_FROM = 75


def plot_run(run: Summary | str | os.PathLike[str], out_png: str | os.PathLike[str], title: str | None = None) -> None:
    """Draw temperature and energy along a run: every saved frame, and a running mean over a twenty-fifth of the run.

    In nve the second panel shows how far the total energy leaves its mean, with the drift as a line; otherwise it shows
    the potential energy about its mean.

    Args:
        run: Summary that :func:`simulate` returned, or the trajectory of a run.
        out_png: File to write; ``.pdf`` and ``.svg`` work too.
        title: Title; by default ensemble, temperature, atoms and length.

    Raises:
        FileNotFoundError: If ``run`` is a path and there is no such run.
    """
    from matplotlib.figure import Figure

    summary = run if isinstance(run, Summary) else read_run(run)
    figure = Figure(figsize=(7.2, 5.0), dpi=160, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title or _describe(summary), x=0.02, ha="left", fontsize=11, color=INK, fontweight="bold")
    per_unit, unit = (1000, "ps") if summary.time_fs[-1] >= 1000 else (1, "fs")
    time = summary.time_fs / per_unit
    _draw_temperature(top, time, summary)
    if summary.settings.ensemble == "nve":
        _draw_total_energy(bottom, time, summary)
    else:
        _draw_potential_energy(bottom, time, summary)
    bottom.set_xlabel(f"time ({unit})")
    for axes in (top, bottom):
        _tidy(axes)
    replace_picture(out_png, figure)


def _draw_temperature(axes: Axes, time: NDArray[np.float64], summary: Summary) -> None:
    mean, settings = summary.temperature.mean(), summary.settings
    _curve(axes, time, summary.temperature, TEMPERATURE)
    if settings.ensemble == "nve":  # which has no target: half of what the velocities had becomes potential energy
        _line(axes, time, [mean, mean])
        _note(axes, f"mean {mean:.0f} K (dashed)")
    else:
        _line(axes, time, [settings.temperature, settings.temperature])
        _note(axes, f"target {settings.temperature:g} K (dashed), mean {mean:.0f} K")
    axes.set_ylabel("temperature (K)")


def _draw_total_energy(axes: Axes, time: NDArray[np.float64], summary: Summary) -> None:
    deviation = 1000 * (summary.total_energy - summary.total_energy.mean()) / summary.atoms
    _curve(axes, time, deviation, ENERGY)
    if len(deviation) > 1:
        drift = summary.drift_mev_per_atom_per_ps
        half = drift * (summary.time_fs[-1] - summary.time_fs[0]) / 2000
        _line(axes, time, [-half, half])
        _note(axes, f"drift {drift:+.2g} meV/atom/ps (dashed), spread {deviation.std():.2g} meV/atom")
    axes.set_ylabel("total energy − mean\n(meV/atom)")


def _draw_potential_energy(axes: Axes, time: NDArray[np.float64], summary: Summary) -> None:
    energy = summary.potential_energy / summary.atoms
    _curve(axes, time, 1000 * (energy - energy.mean()), ENERGY)
    _line(axes, time, [0, 0])
    note = f"mean {energy.mean():.4f} eV/atom"
    if summary.pressure is not None and summary.volume is not None:
        note += f", volume {summary.volume.mean():.1f} Å³, pressure {summary.pressure.mean():.2f} GPa"
    _note(axes, note)
    axes.set_ylabel("potential energy − mean\n(meV/atom)")


def _curve(axes: Axes, time: NDArray[np.float64], values: NDArray[np.float64], color: str) -> None:
    if len(values) < SMOOTH_FROM:
        axes.plot(time, values, color=color, lw=1.4)
        return
    axes.plot(time, values, color=color, lw=0.7, alpha=0.35)
    window = int(len(values) * SMOOTH_SHARE) | 1
    mean = np.convolve(values, np.full(window, 1 / window), mode="valid")
    axes.plot(time[window // 2 : len(values) - window // 2], mean, color=color, lw=1.8)


def _line(axes: Axes, time: NDArray[np.float64], ends: list[float]) -> None:
    axes.plot(time[[0, -1]], ends, color=INK, lw=1.0, ls=(0, (4, 3)))


def _note(axes: Axes, text: str) -> None:
    """A line above the panel, where no curve can run through it."""
    axes.set_title(text, loc="right", fontsize=9, color=INK)


def _describe(summary: Summary) -> str:
    settings, length = summary.settings, summary.time_fs[-1]
    duration = f"{length / 1000:g} ps" if length >= 1000 else f"{length:g} fs"
    # In nve the temperature is that of the first velocities, if they were drawn at all, and no property of the run.
    conditions = {
        "nve": "",
        "nvt": f" at {settings.temperature:g} K",
        "npt": f" at {settings.temperature:g} K and {settings.pressure:g} GPa",
    }
    return f"{settings.ensemble.upper()}{conditions[settings.ensemble]}: {summary.atoms} atoms, {duration}"


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(labelcolor=INK, labelsize=9, color=MUTED)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.grid(axis="y", color="#e5e5e5", lw=0.7)
    axes.set_axisbelow(True)
    axes.margins(x=0)
