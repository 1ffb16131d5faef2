"""Records of a run: one observation, the summary, a frame of the trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from equinet.datasets.properties import is_label

from .ensembles import Settings


@dataclass(frozen=True)
class Observation:
    """One moment of a run.

    Attributes:
        step: Steps since the start.
        time_fs: Time since the start, in fs.
        potential_energy: Potential energy in eV.
        kinetic_energy: Kinetic energy in eV.
        temperature: Instantaneous, in K.
        volume: Volume of the cell, in Å³; npt only.
        pressure: Instantaneous, ideal-gas part included, in GPa; npt only.
    """

    step: int
    time_fs: float
    potential_energy: float
    kinetic_energy: float
    temperature: float
    volume: float | None = None
    pressure: float | None = None

    @property
    def total_energy(self) -> float:
        """Potential and kinetic, in eV."""
        return self.potential_energy + self.kinetic_energy


@dataclass(frozen=True)
class Summary:
    """A run as its log tells it; every array has one number per saved frame, step 0 included.

    Attributes:
        settings: Settings of the run.
        atoms: Number of atoms.
        step: ``(saves,)`` int64.
        time_fs: ``(saves,)``, fs.
        potential_energy, kinetic_energy: ``(saves,)``, eV.
        temperature: ``(saves,)``, K.
        volume, pressure: ``(saves,)``, Å³ and GPa; None except in npt.
        seconds_per_step: Wall time, saving included; NaN before the first step.
        notes: Notes for the user.
    """

    settings: Settings
    atoms: int
    step: NDArray[np.int64]
    time_fs: NDArray[np.float64]
    potential_energy: NDArray[np.float64]
    kinetic_energy: NDArray[np.float64]
    temperature: NDArray[np.float64]
    volume: NDArray[np.float64] | None
    pressure: NDArray[np.float64] | None
    seconds_per_step: float
    notes: tuple[str, ...]

    @property
    def total_energy(self) -> NDArray[np.float64]:
        """``(saves,)``, eV; conserved in nve."""
        return self.potential_energy + self.kinetic_energy

    @property
    def drift_mev_per_atom_per_ps(self) -> float:
        """Gradient of the straight line through the total energy, in meV per atom and ps.

        Raises:
            ValueError: If the ensemble does not conserve the energy, or fewer than two frames were saved.
        """
        if self.settings.ensemble != "nve":
            raise ValueError(f"{self.settings.ensemble} exchanges energy with a thermostat; only nve has a drift")
        if len(self.step) < 2:
            raise ValueError(f"a drift needs two saved frames, got {len(self.step)}; run longer or save more often")
        time_ps = (self.time_fs - self.time_fs.mean()) / 1000
        energy_mev = 1000 * (self.total_energy - self.total_energy.mean())  # else the drift drowns in thousands of eV
        return float((time_ps @ energy_mev) / (time_ps @ time_ps) / self.atoms)


def labels_in(atoms: Atoms) -> list[str]:
    """Names under which ``info`` and ``arrays`` hold energies, forces and the like, which are wrong once atoms have moved."""
    return [key for key in (*atoms.info, *atoms.arrays) if is_label(key)]


def make_frame(atoms: Atoms, observation: Observation, without: Sequence[str] = ()) -> Atoms:
    """A frame for the trajectory: everything that ``atoms`` carry, and the calculator's own energy and forces.

    Args:
        atoms: Structure with a calculator. Tags, charges, magnetic moments, ``info``, own arrays and constraints are kept.
        observation: This moment.
        without: Names of ``info`` and ``arrays`` to leave out.
    """
    frame = atoms.copy()
    for key in without:
        frame.info.pop(key, None)
        frame.arrays.pop(key, None)
    frame.info |= {"step": observation.step, "time_fs": observation.time_fs}
    results = {"energy": atoms.calc.get_potential_energy(atoms), "forces": atoms.get_forces(apply_constraint=False)}
    if observation.pressure is not None:
        results["stress"] = atoms.calc.get_stress(atoms)
    frame.calc = SinglePointCalculator(frame, **results)
    return frame
