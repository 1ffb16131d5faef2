"""A long simulation at constant energy: its drift, the memory it takes on the way, and how its files grow."""

from __future__ import annotations

import random
import resource
from collections import Counter
from pathlib import Path

import training
from ase.optimize import BFGS
from kills import Case, Found

from equinet.datasets import SAMPLE
from equinet.md import EquinetCalculator, Observation, simulate
from equinet.md.dynamics.restart import RunFiles
from equinet.train import parse_config

STEPS, SAVE_EVERY = 20_000, 10
WARM = 2_000  # steps after which memory must have stopped to grow
DRIFT, GROWTH_KIB = 0.1, 2048  # meV/atom/ps, and KiB of memory between WARM and the end


def nve(shared: Path) -> Case:
    """A maker of cases of 20,000 steps of a molecule."""
    data = {"train": str(SAMPLE["train"]), "valid": str(SAMPLE["valid"])}
    train = {"epochs": 40, "batch_size": 5, "device": "cpu"}  # minutes, else the molecule falls apart
    training.train(
        parse_config({"data": data, "model": training.TINY | {"channels": 8}, "train": train}), shared / "run"
    )
    model = shared / "run" / "model.eqn"

    def case(source: random.Random, place: Path, number: int) -> Found:
        calculator = EquinetCalculator(model, device="cpu", dtype="float64")
        atoms = training.structure()
        atoms.calc = calculator
        BFGS(atoms, logfile=None).run(fmax=0.05, steps=200)
        files = RunFiles(place / "run.traj")
        memory, sizes = {}, {}

        def look(step: int, observation: Observation) -> None:
            if step % WARM == 0:
                memory[step] = _resident_kib()
                sizes[step] = (files.trajectory.stat().st_size, files.log.stat().st_size)

        summary = simulate(
            atoms,
            calculator,
            ensemble="nve",
            temperature=100,
            timestep=0.25,
            steps=STEPS,
            save_every=SAVE_EVERY,
            seed=source.randrange(1000),
            out=files.trajectory,
            progress=look,
        )
        drift, growth = summary.drift_mev_per_atom_per_ps, memory[STEPS] - memory[WARM]
        # At 1764 frames ASE's table of frames moves and grows by 0.6 MB, so growth is measured before and after.
        trajectory, log = ((sizes[STEPS][n] - sizes[STEPS - WARM][n]) * SAVE_EVERY / WARM for n in (0, 1))
        events = Counter(
            {
                f"drift {drift:+.5f} meV/atom/ps": 1,
                f"{1e3 * summary.seconds_per_step:.2f} ms per step": 1,
                f"memory {memory[0] / 1024:.1f} MiB at first, {memory[WARM] / 1024:.1f} warm, {memory[STEPS] / 1024:.1f} at last": 1,
                f".traj {trajectory:.0f} and log {log:.0f} bytes per frame of {len(atoms)} atoms": 1,
            }
        )
        complaints = []
        if not abs(drift) < DRIFT:
            complaints.append(f"the energy drifts by {drift:.4f} meV/atom/ps")
        if growth > GROWTH_KIB:
            complaints.append(f"memory grows by {growth} KiB in {STEPS - WARM} steps")
        if not abs(trajectory / ((sizes[2 * WARM][0] - sizes[WARM][0]) * SAVE_EVERY / WARM) - 1) < 0.05:
            complaints.append(f"the trajectory grows unevenly: {sizes}")
        return Found(complaints, events)

    return case


def _resident_kib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024
