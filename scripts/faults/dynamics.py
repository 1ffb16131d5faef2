"""A simulation of a second, what it comes to undisturbed, and what is wrong with its files after a disturbance."""

from __future__ import annotations

import random
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import BaseCalculator, all_changes
from ase.calculators.emt import EMT

from equinet.md import EquinetCalculator, read_run, simulate
from equinet.md.dynamics.restart import RunFiles
from equinet.tensorfile import read_tensors

MODULE = import_module("equinet.md.dynamics.simulate")
SUFFIXES = (".traj", ".xyz")
QUANTITIES = ("get_positions", "get_momenta", "get_forces", "get_potential_energy", "get_cell")


class SameEMT(EMT):
    """ASE's EMT made anew for every structure.

    Its neighbour list adds up in an order that depends on the structures before, so EMT itself differs in the last bit
    after a resume, as :func:`equinet.md.simulate` says of calculators that do.
    """

    def calculate(self, atoms: Any = None, properties: Any = ("energy",), system_changes: Any = ()) -> None:
        """Compute everything from the structure alone."""
        self.__init__()  # type: ignore[misc]  # forget the neighbour list, whose history changes the last bits
        super().calculate(atoms, list(properties), all_changes)


@dataclass(frozen=True)
class Simulation:
    """Settings of one run.

    Attributes:
        ensemble: ``"nve"``, ``"nvt"`` or ``"npt"``.
        suffix: Of the trajectory.
        model: Model file, or None for ASE's EMT.
        seconds_between_writes: How often the restart file is written.
        steps, save_every: Length, and steps between frames.
        seed: Seed of the velocities.
    """

    ensemble: str
    suffix: str
    model: Path | None = None
    seconds_between_writes: float = 0.0
    steps: int = 60
    save_every: int = 3
    seed: int = 0

    def atoms(self) -> Atoms:
        """The structure to begin with."""
        if self.model is None:
            return bulk("Cu", cubic=True) * (2, 1, 1)
        cell = [[7, 0, 0], [0.5, 7, 0], [0, 0.3, 7]]
        positions = np.array([[0, 0, 0], [1.5, 0, 0], [2, 1.3, 0], [-0.6, 0.9, 0], [-0.6, -0.9, 0], [2.9, 1.3, 0.2]])
        return Atoms("CCOHHH", positions, cell=cell, pbc=True)

    def run(self, out: Path) -> None:
        """Begin, or go on if there is a restart file."""
        MODULE.SECONDS_BETWEEN_WRITES = self.seconds_between_writes
        settings: dict[str, Any] = {"temperature": 300, "timestep": 0.5, "friction": 0.02, "seed": self.seed}
        simulate(
            self.atoms(),
            self._calculator(),
            ensemble=self.ensemble,  # type: ignore[arg-type]
            steps=self.steps,
            save_every=self.save_every,
            out=out,
            resume=RunFiles(out).restart.exists(),
            **settings,
        )

    def _calculator(self) -> BaseCalculator:
        return SameEMT() if self.model is None else EquinetCalculator(self.model, device="cpu", dtype="float64")


def any_simulation(source: random.Random, model: Path, **settings: Any) -> Simulation:
    """A simulation of any kind."""
    return Simulation(
        ensemble=source.choice(("nve", "nvt", "npt")),
        suffix=source.choice(SUFFIXES),
        model=source.choice((model, None)),
        seconds_between_writes=source.choice((0.0, 0.01, 0.05)),
        **settings,
    )


def result(out: Path) -> dict[str, Any]:
    """What a finished simulation says that must not depend on what disturbed it."""
    files = RunFiles(out)
    tensors, header = read_tensors(files.restart)
    frames = ase.io.read(out, ":")
    return {
        "frames": [frame.info for frame in frames],
        **{each: [np.asarray(getattr(frame, each)()).tobytes() for frame in frames] for each in QUANTITIES},
        "log": files.log.read_bytes(),
        "restart": {name: tensor.numpy().tobytes() for name, tensor in tensors.items()},
        "header of restart": {k: v for k, v in header.items() if k not in ("wall_seconds", "trajectory_bytes")},
        "files": sorted(path.name for path in out.parent.iterdir()),
    }


def differences(out: Path, expected: dict[str, Any]) -> list[str]:
    """What differs from an undisturbed simulation."""
    found = result(out)
    wrong = [f"{what} differs" for what in expected if found[what] != expected[what]]
    return [f"files: {found['files']}" if each == "files differs" else each for each in wrong]


def steps_done(out: Path) -> int:
    """Steps that the restart file knows; -1 without one."""
    files = RunFiles(out)
    return files.read_state().step if files.restart.exists() else -1


def unreadable(out: Path) -> list[str]:
    """Files of a run that cannot be read, whatever moment it ended at."""
    files, wrong = RunFiles(out), []
    try:
        saved = files.read_state().frames if files.restart.exists() else 0
        # Until the restart file counts a frame there may be half of the first one, which the next start makes anew.
        if saved:
            if len(read_run(out).step) != saved:
                wrong.append("read_run loses frames")
            if len(ase.io.read(out, ":")) < saved:
                wrong.append("the trajectory lost frames")
    except Exception as error:  # whatever a reader raises is a lost file
        wrong.append(f"a file cannot be read: {type(error).__name__}: {str(error)[:80]}")
    return wrong
