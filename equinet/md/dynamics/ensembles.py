"""Ensembles: settings, initial velocities and integrators."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from ase import Atoms, units
from ase.constraints import FixBondLengths, FixInternals, FixLinearTriatomic
from ase.md.langevinbaoab import LangevinBAOAB
from ase.md.velocitydistribution import Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet

Ensemble = Literal["nve", "nvt", "npt"]
Dynamics = VelocityVerlet | LangevinBAOAB

# They hold distances, for which positions must be corrected in every step; BAOAB only projects momenta.
HOLONOMIC = (FixBondLengths, FixInternals, FixLinearTriatomic)

# The barostat answers this many times more slowly than the thermostat, ASE's own proportion.
BAROSTAT_RATIO = 20.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that a trajectory depends on besides its first structure and the calculator.

    Args:
        ensemble: ``"nve"`` velocity Verlet; ``"nvt"`` Langevin (BAOAB); ``"npt"`` the same with a barostat that scales
            the cell and keeps its shape.
        temperature: Temperature of the first velocities and of the thermostat, in K.
        timestep: Timestep in fs.
        friction: Friction of the Langevin thermostat, in 1/fs; without effect in nve.
        pressure: Pressure of the barostat, in GPa; npt only.
        save_every: Steps from one saved frame to the next.
        seed: Seed of first velocities and thermostat.

    Raises:
        ValueError: If a setting cannot work.
    """

    ensemble: Ensemble
    temperature: float
    timestep: float
    friction: float = 0.01
    pressure: float = 0.0
    save_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.ensemble not in get_args(Ensemble):
            raise ValueError(f'`ensemble` must be "nve", "nvt" or "npt", got {self.ensemble!r}')
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"`temperature` must be 0 K or more, got {self.temperature}")
        if not (math.isfinite(self.timestep) and self.timestep > 0):
            raise ValueError(f"`timestep` must be positive (fs; 0.5 to 1 is usual), got {self.timestep}")
        if not (math.isfinite(self.friction) and self.friction > 0):
            raise ValueError(f"`friction` must be positive (1/fs; 0.01 is usual), got {self.friction}")
        if not math.isfinite(self.pressure):
            raise ValueError(f"`pressure` must be a finite number of GPa, got {self.pressure}")
        if self.pressure != 0 and self.ensemble != "npt":
            raise ValueError(f"`pressure` is {self.pressure} GPa, but {self.ensemble} keeps the cell as it is; use npt")
        if self.save_every < 1:
            raise ValueError(f"`save_every` must be 1 step or more, got {self.save_every}")
        if self.seed < 0:
            raise ValueError(f"`seed` must be 0 or more, got {self.seed}")


def require_suitable(atoms: Atoms, settings: Settings) -> None:
    """Refuse a structure that the integrator would not treat as the user means.

    Raises:
        ValueError: If there are no atoms, a mass is not positive, a position, momentum or cell not finite, npt meets an open direction
            or a constraint, or nvt fixed distances.
    """
    if len(atoms) == 0:
        raise ValueError("`atoms` is empty")
    _require_numbers(atoms)
    if settings.ensemble == "npt" and not atoms.pbc.all():
        raise ValueError(f"npt needs three periodic directions, `atoms.pbc` is {atoms.pbc.tolist()}; use nvt")
    if settings.ensemble == "npt" and atoms.constraints:
        names = ", ".join(type(constraint).__name__ for constraint in atoms.constraints)
        raise ValueError(f"npt moves atoms with the cell and cannot keep constraints ({names}); remove them or use nvt")
    holonomic = [type(constraint).__name__ for constraint in atoms.constraints if isinstance(constraint, HOLONOMIC)]
    if settings.ensemble == "nvt" and holonomic:
        raise ValueError(
            f"the nvt integrator cannot hold distances fixed ({', '.join(holonomic)}); remove it or use nve"
        )


def _require_numbers(atoms: Atoms) -> None:
    """Refuse a structure that cannot move: masses that are not positive, positions, momenta or a cell that are not finite."""
    masses = atoms.get_masses()
    for atom in np.flatnonzero(~((masses > 0) & np.isfinite(masses))):
        raise ValueError(
            f"the mass of atom {atom} ({atoms.symbols[atom]}) is {masses[atom]:g}; set it with `atoms.set_masses`"
        )
    for what, values in (("position", atoms.positions), ("momentum", atoms.get_momenta())):
        for atom in np.flatnonzero(~np.isfinite(values).all(axis=1)):
            raise ValueError(
                f"the {what} of atom {atom} ({atoms.symbols[atom]}) is not finite: {values[atom]}; correct the structure"
            )
    if not np.isfinite(atoms.cell[:]).all():
        raise ValueError(f"the cell is not finite: {atoms.cell[:].tolist()}; correct the structure")


def draw_momenta(atoms: Atoms, temperature: float, rng: np.random.Generator) -> None:
    """Maxwell-Boltzmann momenta at ``temperature`` (K), at rest as a whole.

    The total momentum is zero, of an open structure the angular momentum too. With constraints neither is conserved, so
    neither is removed.
    """
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)
    atoms.set_momenta(spread[:, None] * rng.standard_normal((len(atoms), 3)))
    if atoms.constraints:
        return
    Stationary(atoms, preserve_temperature=False)
    if not atoms.pbc.any() and len(atoms) > 1:
        with np.errstate(invalid="ignore"):  # 0 / 0 about the axis of a linear molecule, which ASE then leaves out
            ZeroRotation(atoms, preserve_temperature=False)


def degrees_of_freedom(atoms: Atoms, ensemble: Ensemble) -> int:
    """Number of quadratic terms of the kinetic energy: 3 per atom, less constraints, less the momenta that NVE conserves at zero.

    A thermostat moves the structure as a whole too. In nve a total momentum or angular momentum that is zero stays
    zero, and counting it would show a molecule of nine atoms 20 per cent too cold.
    """
    count = int(atoms.get_number_of_degrees_of_freedom())  # some constraints count in numbers of numpy
    if ensemble != "nve" or atoms.constraints:
        return count
    momenta = atoms.get_momenta()
    negligible = 1e-8 * np.abs(momenta).sum()
    if np.abs(momenta.sum(axis=0)).max() <= negligible:
        count -= 3
    if not atoms.pbc.any():
        inertia = atoms.get_moments_of_inertia()
        size = math.sqrt(inertia.max() / atoms.get_masses().sum())
        if np.abs(atoms.get_angular_momentum()).max() <= negligible * size:
            count -= int(np.count_nonzero(inertia > 1e-6 * inertia.max()))
    return count


def integrator(atoms: Atoms, settings: Settings, rng: np.random.Generator) -> Dynamics:
    """The dynamics of an ensemble; evaluates the calculator once except in nve.

    Source:
        nvt: Leimkuhler and Matthews, J. Chem. Phys. 138, 174102 (2013). npt: Quigley and Probert, J. Chem. Phys. 120,
        11432 (2004). Both as ASE implements them.
    """
    timestep = settings.timestep * units.fs
    if settings.ensemble == "nve":
        return VelocityVerlet(atoms, timestep)
    # `hydrostatic` in nvt only chooses the scalar arithmetic of the thermostat over a 3 x 3 matrix exponential.
    thermostat: dict[str, Any] = {
        "temperature_K": settings.temperature,
        "T_tau": units.fs / settings.friction,
        "hydrostatic": True,
        "rng": rng,
    }
    if settings.ensemble == "nvt":
        return LangevinBAOAB(atoms, timestep, **thermostat)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using heuristic P_mass")
        return LangevinBAOAB(
            atoms,
            timestep,
            externalstress=-settings.pressure * units.GPa,
            P_tau=BAROSTAT_RATIO * units.fs / settings.friction,
            **thermostat,
        )


def barostat_state(dynamics: Dynamics) -> dict[str, float]:
    """State of the barostat between two steps; empty without one."""
    # The cell force stays as it was before the last half step of the velocities, so it cannot be computed again.
    names = ("p_eps", "force_eps") if hasattr(dynamics, "p_eps") else ()
    return {name: float(getattr(dynamics, name)) for name in names}


def restore_barostat(dynamics: Dynamics, state: dict[str, float]) -> None:
    """Undo what the integrator's start did to it."""
    for name, value in state.items():
        setattr(dynamics, name, value)
