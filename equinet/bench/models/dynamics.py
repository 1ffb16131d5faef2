"""Molecular dynamics as a block of steps that can be timed again and again."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

TIMESTEP = 0.5  # fs
TEMPERATURE = 300  # K
HEAVIER = 1e4
MOST_STEPS, FEWEST_STEPS = 20, 2
BLOCK = 1.0  # s: steps are as many as fit in here


class Block:
    """Velocity Verlet through an ASE calculator, always from the same positions and velocities.

    A block of n steps has n + 1 evaluations, the first with a new neighbour list: a calculator that keeps its list while
    atoms move little still makes one every n steps.

    Atoms set out with the velocities of 300 K, but their masses are 10,000 times their own. Random weights hold no molecule
    together, they let it burst within ten steps, and then there are no neighbours to compute. So atoms fly on nearly
    straight, as far as they would in a real run, and a step costs what it costs.

    Args:
        atoms: Initial structure; copied.
        calculator: An ASE calculator.
        steps: Steps in a block.
    """

    def __init__(self, atoms: Atoms, calculator: Any, steps: int) -> None:
        self.atoms, self.steps = atoms.copy(), steps
        self.atoms.set_constraint()
        self.atoms.calc = calculator
        self._positions = atoms.positions.copy()
        spread = np.sqrt(TEMPERATURE * units.kB / atoms.get_masses())  # of each component of a velocity
        self._velocities = spread[:, None] * np.random.default_rng(0).normal(size=(len(atoms), 3))
        self.atoms.set_masses(HEAVIER * atoms.get_masses())
        self._dynamics = VelocityVerlet(self.atoms, timestep=TIMESTEP * units.fs)

    @property
    def evaluations(self) -> int:
        """Number of evaluations of energy and forces in a block, by which its time is divided."""
        return self.steps + 1

    def run(self) -> None:
        """One block."""
        self.atoms.positions = self._positions
        self.atoms.set_velocities(self._velocities)
        self._dynamics.run(self.steps)


def steps_in_block(seconds: float) -> int:
    """Return the number of steps to time at once if an evaluation takes so long."""
    return int(np.clip(BLOCK / max(seconds, 1e-6), FEWEST_STEPS, MOST_STEPS))
