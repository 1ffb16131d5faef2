"""The demonstration: from the sample that ships with equinet to molecular dynamics, in about two minutes."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from equinet.datasets import SAMPLE, read_structure
from equinet.md import EquinetCalculator, Summary, plot_run
from equinet.train import parse_config, run

from .dynamics import run_with_progress
from .training import TerminalReporter

CONFIG = {
    "data": {part: str(path) for part, path in SAMPLE.items()},
    "model": {"channels": 32, "max_l": 1, "sh_degree": 2, "correlation": 3, "cutoff": 4.5},
    # Whatever the machine, training ends after this long; the schedule ends with it.
    "train": {"epochs": 40, "batch_size": 10, "learning_rate": 0.01, "max_minutes": 1.3},
}
PICOSECOND_STEPS = 2000
TIMESTEP = 0.5  # fs; the fastest vibration, O-H, has a period of 9 fs


def run_demo(out: Path, console: Console) -> None:
    """Train on the sample, print errors, run 1 ps of Langevin and 1 ps of NVE dynamics, write pictures.

    Args:
        out: Folder for everything.
        console: Terminal.

    Raises:
        FileExistsError: If ``out`` holds an earlier demonstration, whole or broken off.
    """
    if (out / "state.safetensors").exists():
        raise FileExistsError(
            f"{out} holds an earlier demonstration; remove the folder, or choose another one with --out"
        )
    began = time.perf_counter()
    console.rule("1  training on ethanol, 400 frames, GFN2-xTB labels")
    result = run(parse_config(CONFIG), out, reporter=TerminalReporter(console))
    console.rule("2  1 ps of Langevin dynamics at 300 K")
    calculator = EquinetCalculator(out / "model.eqn", dtype="float32")
    atoms = read_structure(SAMPLE["test"])
    thermal = run_with_progress(
        atoms,
        calculator,
        console=console,
        ensemble="nvt",
        temperature=300,
        timestep=TIMESTEP,
        steps=PICOSECOND_STEPS,
        out=out / "nvt.traj",
        seed=1,
    )
    console.rule("3  1 ps of NVE dynamics from where it ended")
    atoms = read_structure(out / "nvt.traj")
    free = run_with_progress(
        atoms,
        calculator,
        console=console,
        ensemble="nve",
        temperature=300,
        timestep=TIMESTEP,
        steps=PICOSECOND_STEPS,
        out=out / "nve.traj",
    )
    for name, summary in (("nvt", thermal), ("nve", free)):
        plot_run(summary, out / "plots" / f"{name}.png")
    console.rule(f"done in {time.perf_counter() - began:.0f} s")
    _conclude(console, out, result.errors["test"].rmse["forces"], thermal, free)


def _conclude(console: Console, out: Path, force_error: float, thermal: Summary, free: Summary) -> None:
    drift = free.drift_mev_per_atom_per_ps
    lines = [
        f"test force error (RMSE)    {force_error:.1f} meV/Å",
        f"mean temperature, Langevin {thermal.temperature.mean():.0f} K",
        f"NVE energy drift           {drift:+.3f} meV/atom/ps",
        "",
        f"model        {out}/model.eqn    inspect it:  equinet show {out}/model.eqn",
        f"metrics      {out}/metrics.jsonl, {out}/errors.json",
        f"trajectories {out}/nvt.traj, {out}/nve.traj    look:  ase gui {out}/nvt.traj",
        f"pictures     {out}/plots/",
        "",
        "next, on your own frames (extended XYZ with energies in eV and forces in eV/Å):",
        f"  equinet train {out}/config.toml --set data.train=frames.xyz --set data.valid=0.1 --out my-run",
        "  equinet keys       explains every key of the configuration",
    ]
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
