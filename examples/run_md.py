"""Molecular dynamics from Python, with ASE's own integrators and a calculator of ours."""

import sys

import ase.io
from ase import units
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from equinet.datasets import SAMPLE
from equinet.md import EquinetCalculator

model = sys.argv[1] if len(sys.argv) > 1 else "ethanol.eqn"
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200

atoms = ase.io.read(SAMPLE["test"], index=0)
atoms.calc = EquinetCalculator(model)  # device="auto", dtype="float64"
MaxwellBoltzmannDistribution(atoms, temperature_K=300)

dynamics = Langevin(atoms, timestep=0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, trajectory="md.traj")
for _ in dynamics.irun(steps):
    if dynamics.nsteps % 50 == 0:
        print(f"{dynamics.nsteps:5d}  {atoms.get_potential_energy():12.4f} eV  {atoms.get_temperature():6.0f} K")
