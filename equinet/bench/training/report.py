"""Table and picture of two trainings."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.ticker import LogFormatter, StrMethodFormatter

from equinet.bench.core import EAGER, EQUINET
from equinet.bench.core.picture import STYLES, bare, new_figure, save
from equinet.bench.core.record import Record
from equinet.bench.core.report import Suite, caption, count
from equinet.tables import Block, Cell, Column, Table

from .run import TEST, Row

PACKAGES = (EAGER, EQUINET)
CLOCKS = {"seconds": "s", "cpu_seconds": "CPU s"}
FORCES = "forces_rmse_mev_per_ang"
SHOWN = {
    "energy_rmse_mev_per_atom": "energy (meV/atom)",
    FORCES: "forces (meV/Å)",
    "stress_rmse_mev_per_ang3": "stress (meV/Å³)",
}
LEGEND = (
    "Both packages in one process on the same frames, split, order, sizes, loss and learning rate, epochs in turns. A time is that of a "
    "training epoch without validation; mace / equinet: of neighbouring epochs, above 1 equinet is faster. Errors are RMSE on "
    "validation frames; test: on test frames."
)


def times(record: Record[Row], package: str, clock: str) -> list[float]:
    """Times of all epochs."""
    return [value for row in record.of(contender=package) if (value := getattr(row, clock)) is not None]


def ratios(record: Record[Row], clock: str) -> list[float]:
    """mace-torch's time over equinet's, for each pair of neighbouring epochs; above one, equinet is faster."""
    return [mace / equinet for mace, equinet in zip(*(times(record, package, clock) for package in PACKAGES))]


def table(record: Record[Row]) -> list[Block]:
    """Weights, times, and validation and test errors of both packages."""
    by_task = {task: record.of(task=task) for task in dict.fromkeys(row.task for row in record.rows)}
    here = {task: {row.contender: row for row in rows} for task, rows in by_task.items()}
    lines: list[tuple[Cell, ...]] = []
    lines.append(("weights", *(f"{here[TEST][package].parameters:,}" for package in PACKAGES), ""))
    for clock, label in CLOCKS.items():
        columns = [*(times(record, package, clock) for package in PACKAGES), ratios(record, clock)]
        lines.append(())
        lines.append((f"{label} per epoch, median", *(f"{median(values):.2f}" for values in columns)))
        lines.append(("range", *(f"{min(values):.2f} – {max(values):.2f}" for values in columns)))
    for key, label in SHOWN.items():
        if key in here[TEST][EAGER].errors:
            lines.append(())
            for n, task in enumerate(here):
                values = (f"{here[task][package].errors[key]:.2f}" for package in PACKAGES)
                lines.append((f"{label} {task}" if n == 0 else task, *values, ""))
    headings = ("", *PACKAGES, "mace / equinet")
    title = f"{record.about['task']}, {count(record.about['frames'], 'frame')}, {caption(record)}"
    return [Table(title, [Column(heading, number=True) for heading in headings], lines)]


def picture(record: Record[Row], path: Path) -> None:
    """Validation error of the forces against epochs and against seconds of training, logarithmic; PNG."""
    figure = new_figure(8.4, 3.6)
    by_epoch, by_time = axes = figure.subplots(1, 2, sharey=True)
    for package in PACKAGES:
        values = [row.errors[FORCES] for row in record.of(contender=package) if row.task != TEST]
        seconds = list(accumulate(times(record, package, "seconds"), initial=0.0))
        style = {**STYLES[package], "markersize": 4 if len(values) < 40 else 0, "label": package}
        by_epoch.plot(range(len(values)), values, **style)
        by_time.plot(seconds, values, **style)
    by_epoch.set(xlabel="epoch", ylabel="validation RMSE of forces (meV/Å)", yscale="log")
    by_epoch.xaxis.get_major_locator().set_params(integer=True)
    by_time.set_xlabel("seconds of training")
    by_epoch.legend(frameon=False)
    for axis in axes:
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.5)))
        bare(axis)
    figure.suptitle(f"{record.about['task']}, {count(record.about['frames'], 'frame')}", fontsize=10)
    save(figure, path, caption(record))


def facts(record: Record[Row]) -> dict[str, Any]:
    """Ratios of times by both clocks."""
    return {"mace_over_equinet": {clock: ratios(record, clock) for clock in CLOCKS}}


SUITE: Suite[Row] = Suite("training", LEGEND, table, table, picture, facts=facts)
