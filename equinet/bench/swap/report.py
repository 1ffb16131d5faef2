"""What :mod:`equinet.bench.swap.run` found, for the eye: a table for the terminal, one for a document, a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from rich import box
from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from equinet.bench.products.machine import processor
from equinet.checkpoint import versions
from equinet.train import RunConfig, to_toml

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


def terminal_table(rows: Sequence[Row], title: str) -> Group:
    """Two lines per pair in 80 columns, best forces first, then what cannot be with its reason; all columns are in the document."""
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("convolution\nmany-body product", overflow="fold")
    for title in TERMINAL.values():
        table.add_column(title, justify="right", no_wrap=True)
    found = summarise(rows)
    for summary in found:
        if summary.refused is None:
            cells = dict(zip((name for name, _, _ in COLUMNS), _cells(summary)[1:]))
            values = (cells[name].replace(" ± ", "\n± ") for name in TERMINAL)
            table.add_row(escape(summary.pair.replace(" | ", "\n")), *values)
    notes = [Text(f"{summary.pair}: refused, {summary.refused}") for summary in found if summary.refused]
    return Group(
        table, *notes, Text("turned: relative error of forces when structures are rotated, float32; ±: over seeds")
    )


def markdown(rows: Sequence[Row], config: RunConfig, minutes: float) -> str:
    """The same as a document, with how it was made."""
    titles = ["products (convolution, many-body)", "seeds", *(title for _, title, _ in COLUMNS)]
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * (len(titles) - 1) + "|"]
    refused = []
    for summary in summarise(rows):
        if summary.refused:
            refused.append(f"- {_code(summary.pair)}: {summary.refused}")
        else:
            lines.append(f"| {_code(summary.pair)} | " + " | ".join(_cells(summary)) + " |")
    model, train = config.model, config.train
    return "\n".join(
        [
            f"Trained for {minutes:g} processor minutes each on one thread of {processor()}, torch {versions()['torch']}: "
            f"{model.channels} channels, max_l {model.max_l}, sh_degree {model.sh_degree}, correlation {model.correlation}, "
            f"{model.layers} layers, cutoff {model.cutoff:g} Å, batches of {train.batch_size}, {train.dtype}. Errors are RMSE on "
            "the test frames. `turned` and `mirrored`: relative error of forces when structures are rotated and inverted, in "
            "float32. MD: velocity Verlet in float32, one structure, per processor second. Means over seeds, ± the standard "
            "deviation; exact couplings (cg, cg) and pairs within 10 % of the best force error have several seeds, the others one.",
            "",
            *lines,
            "",
            "What cannot be, and why:" if refused else "",
            "",
            *refused,
            "",
        ]
    )


def picture(rows: Sequence[Row], path: Path) -> None:
    """Force error against speed of molecular dynamics, a point for every pair, to PNG."""
    found = [summary for summary in summarise(rows) if summary.refused is None]
    figure, axes = plt.subplots(figsize=(12, 0.27 * len(found) + 1.6), layout="constrained", ncols=3, sharey=True)
    labels = [summary.pair for summary in found]
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
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(found)), labels, fontsize=9)
    axes[0].set_ylim(len(found) - 0.4, -0.6)
    figure.suptitle(
        "convolution | many-body product, after the same processor time; dotted: exact couplings", fontsize=10
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def write_report(rows: Sequence[Row], config: RunConfig, minutes: float, out: Path) -> None:
    """``swap.json``, ``swap.md``, ``swap.png`` and the configuration ``swap.toml``."""
    about = {
        "minutes": minutes,
        "processor": processor(),
        "versions": versions(),
        "model": config.model.model_dump(mode="json"),
    }
    (out / "swap.json").write_text(json.dumps({**about, "rows": [asdict(row) for row in rows]}, indent=1))
    (out / "swap.md").write_text(markdown(rows, config, minutes))
    (out / "swap.toml").write_text(to_toml(config))
    picture(rows, out / "swap.png")


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
