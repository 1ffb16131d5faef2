"""The picture of the README, from the folder that `equinet demo` leaves: forces against labels, and energy along NVE dynamics."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from equinet.datasets import SAMPLE
from equinet.md import read_run
from equinet.train import evaluate_file

OUT = Path(__file__).resolve().parents[1] / "docs" / "images" / "demo.png"
BLUE, GREY = "#2166ac", "#9aa5b1"


def main(demo: Path) -> None:
    """Draw the picture.

    Args:
        demo: Folder of a finished demonstration.
    """
    figure = Figure(figsize=(8.4, 3.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    evaluation = evaluate_file(demo / "model.eqn", SAMPLE["test"], device="cpu")
    found = evaluation.errors
    label, model = (values.numpy() for values in evaluation.predictions.pairs["forces"])
    span = 1.05 * float(np.abs(label).max())
    left.plot([-span, span], [-span, span], color="black", lw=0.8, zorder=0)
    left.plot(label, model, ".", ms=3, alpha=0.4, color=BLUE, rasterized=True)
    left.set(
        xlim=(-span, span),
        ylim=(-span, span),
        aspect="equal",
        xlabel="force, GFN2-xTB (eV/Å)",
        ylabel="force, model (eV/Å)",
    )
    left.set_title(f"200 test frames of ethanol: RMSE {found.rmse['forces']:.0f} meV/Å", fontsize=9)

    run = read_run(demo / "nve.traj")
    time, potential, kinetic = run.time_fs, run.potential_energy / run.atoms, run.kinetic_energy / run.atoms
    start = potential[0] + kinetic[0]
    right.plot(time, 1e3 * (potential - potential[0]), color=GREY, lw=0.8, label="potential")
    right.plot(time, 1e3 * (potential + kinetic - start), color=BLUE, lw=1.8, label="total")
    right.set(xlabel="time (fs)", ylabel="change of energy (meV/atom)", xlim=(float(time[0]), float(time[-1])))
    right.set_title(f"1 ps of NVE dynamics: drift {run.drift_mev_per_atom_per_ps:+.3f} meV/atom/ps", fontsize=9)
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, lw=0.5)
    figure.savefig(OUT, dpi=130)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "equinet-demo"))
