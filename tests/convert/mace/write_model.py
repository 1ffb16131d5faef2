"""Write small random MACE models as a version of mace-torch does, and what they predict. Run in a process of that version.

``python write_model.py arguments.json out.model out.npz``, and three more for every further model;
:func:`old_versions.write_all` runs it and says what goes in and out.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from e3nn import o3
from mace import modules

PREDICTED = ("energy", "interaction_energy", "node_energy", "forces", "virials", "stress")


def build(arguments: dict[str, Any]) -> torch.nn.Module:
    """The model: constructor arguments by mace's own names, with classes, gates and irreps as text."""
    made = getattr(modules, arguments["class"])
    known = {name for each in made.__mro__ for name in inspect.signature(each.__init__).parameters}
    given = arguments["model"] | {k: v for k, v in arguments.get("if_known", {}).items() if k in known}
    if unknown := set(arguments["model"]) - known:
        raise ValueError(f"this version of mace-torch has no {', '.join(sorted(unknown))}; it knows {sorted(known)}")
    for name in given:
        if name.endswith("irreps") and given[name] is not None:
            given[name] = o3.Irreps(given[name])
        elif name in ("interaction_cls", "interaction_cls_first", "readout_cls"):
            given[name] = getattr(modules, given[name])
    given["gate"] = modules.gate_dict[given["gate"]]
    given["num_elements"] = len(given["atomic_numbers"])
    energies = np.array(given["atomic_energies"])
    given["atomic_energies"] = energies if "heads" in known else energies.reshape(len(given["atomic_numbers"]))
    torch.set_default_dtype(getattr(torch, arguments["dtype"]))
    torch.manual_seed(arguments["seed"])
    model = made(**given)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(arguments["factor"])
    return model


def graph_of(atoms: Atoms, numbers: list[int], cutoff: float, head: int) -> dict[str, torch.Tensor]:
    """What the model reads of a structure, in float64."""
    senders, receivers, offsets = neighbor_list("ijS", atoms, cutoff)
    species = torch.tensor([numbers.index(z) for z in atoms.numbers])
    return {
        "positions": torch.tensor(atoms.positions),
        "cell": torch.tensor(atoms.cell.array),
        "node_attrs": torch.nn.functional.one_hot(species, len(numbers)).double(),
        "edge_index": torch.tensor(np.stack([senders, receivers])),
        "unit_shifts": torch.tensor(offsets).double(),
        "shifts": torch.tensor(offsets @ atoms.cell.array),
        "batch": torch.zeros(len(atoms), dtype=torch.int64),
        "ptr": torch.tensor([0, len(atoms)]),
        "head": torch.tensor([head]),
    }


def main(arguments_file: str, model_file: str, arrays_file: str) -> None:
    arguments = json.loads(Path(arguments_file).read_text())
    model = build(arguments)
    torch.save(model, model_file)
    arrays = {f"state/{name}": tensor.numpy(force=True) for name, tensor in model.state_dict().items()}
    torch.set_default_dtype(torch.float64)
    model = model.double().eval()
    numbers, cutoff = model.atomic_numbers.tolist(), float(model.r_max)
    for i, atoms in enumerate(ase.io.read(arguments["structures"], ":") if arguments.get("structures") else []):
        for head in range(len(getattr(model, "heads", ["Default"]))):
            found = model(graph_of(atoms, numbers, cutoff, head), compute_virials=True, compute_stress=True)
            for name in PREDICTED:
                # MACE, unlike ScaleShiftMACE, has no energy of interaction of its own.
                if found.get(name) is not None:
                    arrays[f"{i}/{head}/{name}"] = found[name].numpy(force=True)
    np.savez(arrays_file, **arrays)


if __name__ == "__main__":
    files = sys.argv[1:]
    for start in range(0, len(files), 3):
        torch.set_default_dtype(torch.float32)  # as at the beginning
        main(*files[start : start + 3])
