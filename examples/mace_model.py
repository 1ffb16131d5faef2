"""A model of mace-torch here: read it, use it in ASE, keep it, and the way back. Neither reading nor writing needs mace-torch."""

import sys

import ase.io
import torch

import equinet
from equinet.convert.mace import to_mace_arguments, to_mace_state_dict
from equinet.convert.mace.published import published_files
from equinet.datasets import SAMPLE
from equinet.md import EquinetCalculator

if len(sys.argv) < 2:
    print("python mace_model.py MODEL.model [STRUCTURE.xyz] [HEAD]\n\nModels that may be used commercially:")
    print(*(f"  {one.name:<29}{one.url}" for one in published_files() if one.commercial), sep="\n")
    sys.exit()

path = sys.argv[1]
structure = sys.argv[2] if len(sys.argv) > 2 else SAMPLE["test"]  # ethanol
head = sys.argv[3] if len(sys.argv) > 3 else None
potential = equinet.load_mace(path, head=head)  # warns if a licence forbids commercial use
print(potential, potential.origin, sep="\n")

atoms = ase.io.read(structure, index=0)
atoms.calc = EquinetCalculator(potential)
print(f"{atoms.get_potential_energy():.6f} eV, largest force {abs(atoms.get_forces()).max():.6f} eV/Å")

equinet.save(potential, "from_mace.eqn")  # the origin stays with it
torch.save({"arguments": to_mace_arguments(potential), "state": to_mace_state_dict(potential)}, "to_mace.pt")
