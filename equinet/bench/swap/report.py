"""Tables and picture of the comparison of products, for the terminal and for documents."""

from __future__ import annotations

from pathlib import Path

from equinet.bench.core.picture import bare, new_figure, save
from equinet.bench.core.record import Record, Settings
from equinet.bench.core.report import Suite, where
from equinet.bench.core.timing import threads
from equinet.tables import Block, Column, Table
from equinet.train import RunConfig

from .run import Row, Summary, summarise

COLUMNS = (
    ("weights", "weights", "{:,.0f}"),
    ("epochs", "epochs", "{:.0f}"),
    ("seconds_per_epoch", "s/epoch", "{:.2f}"),
    ("energy_rmse", "energy meV/atom", "{:.2f}"),
    ("forces_rmse", "forces meV/Å", "{:.1f}"),
    ("rotation_error", "turned", "{:.0e}"),
    ("inversion_error", "mirrored", "{:.0e}"),
    ("md_steps_per_second", "MD steps/s", "{:.0f}"),
)
TERMINAL = {
    "weights": "weights",
    "seconds_per_epoch": "s\n/ epoch",
    "energy_rmse": "energy\nmeV/atom",
    "forces_rmse": "forces\nmeV/Å",
    "rotation_error": "turned",
    "md_steps_per_second": "MD\nsteps/s",
}
WITH_SPREAD = ("energy_rmse", "forces_rmse")
LEGEND = (
    "Errors are RMSE on the test frames. turned and mirrored: relative error of forces when structures are rotated and inverted, in "
    "float32. MD: velocity Verlet in float32, one structure, per processor second. Means over seeds, ±: their standard deviation; "
    "exact couplings (cg, cg) and pairs within 10 % of the best force error have several seeds, the others one."
)


def record_of(config: RunConfig, minutes: float, command: str, rows: list[Row]) -> Record[Row]:
    """A record of trainings by a configuration, for so many processor minutes each."""
    settings = Settings(dtype=config.train.dtype, clock="cpu", budget=60 * minutes)
    with threads(1):  # as the trainings
        return Record(command, settings, [config.model, config.train], rows, {"minutes": minutes})


def terminal(record: Record[Row]) -> list[Block]:
    """Two lines per pair in 80 columns, best forces first, then what cannot be with its reason."""
    columns = [Column("convolution\nmany-body product", fold=True)]
    columns += [Column(title, number=True) for title in TERMINAL.values()]
    lines, found = [], summarise(record.rows)
    for summary in found:
        if summary.refused is None:
            cells = dict(zip((name for name, _, _ in COLUMNS), _cells(summary)[1:]))
            lines.append(
                [summary.pair.replace(" | ", "\n"), *(cells[name].replace(" ± ", "\n± ") for name in TERMINAL)]
            )
    title = f"{record.about['minutes']:g} processor minutes each"
    return [Table(title, columns, lines), *(f"{one.pair}: refused, {one.refused}" for one in found if one.refused)]


def document(record: Record[Row]) -> list[Block]:
    """All columns, and how the models were trained."""
    titles = ["seeds", *(title for _, title, _ in COLUMNS)]
    columns = [Column("products (convolution, many-body)"), *(Column(title, number=True) for title in titles)]
    found = summarise(record.rows)
    lines = [[_code(one.pair), *_cells(one)] for one in found if one.refused is None]
    refused = [f"{_code(one.pair)}: {one.refused}" for one in found if one.refused]
    model, train = record.problems
    told = (
        f"Trained for {record.about['minutes']:g} processor minutes each on one thread of {where(record)}: "
        f"{model.channels} channels, max_l {model.max_l}, sh_degree {model.sh_degree}, correlation {model.correlation}, "
        f"{model.layers} layers, cutoff {model.cutoff:g} Å, batches of {train.batch_size}, {train.dtype}."
    )
    return [told, Table("", columns, lines), *(["#### What cannot be, and why"] if refused else []), *refused]


def picture(record: Record[Row], path: Path) -> None:
    """Force error, time per epoch and speed of molecular dynamics, a line for every pair, to PNG."""
    found = [summary for summary in summarise(record.rows) if summary.refused is None]
    figure = new_figure(12, 0.27 * len(found) + 1.6)
    axes = figure.subplots(ncols=3, sharey=True)
    panels = (
        ("forces_rmse", "force error, meV/Å\nless is better", "tab:red"),
        ("seconds_per_epoch", "seconds per epoch\nless is better", "tab:blue"),
        ("md_steps_per_second", "MD steps per second\nmore is better", "tab:green"),
    )
    for axis, (name, title, colour) in zip(axes, panels):
        values = [summary.means[name] for summary in found]
        spread = [summary.spreads[name] if name == "forces_rmse" else 0.0 for summary in found]
        axis.barh(range(len(found)), values, xerr=spread, color=colour, alpha=0.75, height=0.7)
        reference = next((summary.means[name] for summary in found if summary.pair == "cg | cg"), None)
        if reference is not None:
            axis.axvline(reference, color="0.3", linewidth=1, linestyle=":")
        axis.set_xlabel(title, fontsize=9)
        bare(axis, "x")
    axes[0].set_yticks(range(len(found)), [summary.pair for summary in found], fontsize=9)
    axes[0].set_ylim(len(found) - 0.4, -0.6)
    figure.suptitle(
        "convolution | many-body product, after the same processor time; dotted: exact couplings", fontsize=10
    )
    save(figure, path)


def _cells(summary: Summary) -> list[str]:
    cells = [str(summary.seeds)]
    for name, _, form in COLUMNS:
        text = form.format(summary.means[name])
        if name in WITH_SPREAD and summary.seeds > 1:
            text += " ± " + form.format(summary.spreads[name])
        cells.append(text)
    return cells


def _code(pair: str) -> str:
    return pair.replace(" | ", ", ")


SUITE: Suite[Row] = Suite("swap", LEGEND, terminal, document, picture, suffix=".md")
