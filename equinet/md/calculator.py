"""A potential as an ASE calculator."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from equinet.checkpoint import load_potential
from equinet.potential import Potential, choose_device
from equinet.verlet import VerletGraph

WHAT_COUNTS = ("positions", "numbers", "cell", "pbc")
DTYPES = {"float64": torch.float64, "float32": torch.float32}

# Of tables in float32: forces then err by 1e-8 eV/Å, a thousandth of what float32 makes of them.
TABLE_ERROR = 1e-6


class EquinetCalculator(Calculator):
    """Energies, forces and stress of a potential, for everything in ASE that asks a calculator.

    Energy and forces are computed together. The stress is computed when it is asked for; once it has been, it comes
    with every further periodic structure, as a barostat or a cell filter will ask again and a second pass costs twice.

    Args:
        model_or_path: A model file (``*.eqn``) or a potential. A potential is copied: the caller's keeps its precision,
            its device and its training mode.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        dtype: Precision of weights and arithmetic, ``"float64"`` or ``"float32"``. Forces in float32 are good to about
            1e-5 eV/Å: enough for dynamics, too little for phonons and tight relaxations.
        skin: How much beyond the cutoff to look for neighbours, in Å, so that they need not be searched for in every step;
            see :class:`equinet.verlet.VerletGraph`. Speed alone depends on it, and 0 searches for every structure.
        table_error: What tables that replace the radial networks may err (:meth:`equinet.Potential.tabulate`), 0 for no
            tables. By default 1e-6 in float32, far below its rounding, and 0 in float64 and for models whose radial networks
            are no functions of the distance alone (``model.not_tabulable`` says which).

    Raises:
        FileNotFoundError: If ``model_or_path`` is a path and there is no such file.
        TypeError: If it is neither a path nor a potential.
        ValueError: If the file is no potential, ``device`` or ``dtype`` is unknown or not there, ``skin`` or ``table_error`` is negative,
            or tables are asked for and cannot be made.

    >>> atoms.calc = EquinetCalculator("model.eqn")  # doctest: +SKIP
    >>> atoms.get_potential_energy()  # doctest: +SKIP
    -4209.93
    """

    name = "equinet"
    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]  # noqa: RUF012, as in ASE

    def __init__(
        self,
        model_or_path: Potential | str | os.PathLike[str],
        device: str = "auto",
        dtype: str = "float64",
        skin: float = 0.5,
        table_error: float | None = None,
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f'`dtype` must be "float64" or "float32", got {dtype!r}')
        self.device = choose_device(device)
        self.potential = _own_copy(model_or_path, self.device, DTYPES[dtype])
        if table_error is None:
            table_error = TABLE_ERROR if dtype == "float32" and self.potential.model.not_tabulable is None else 0.0
        if table_error < 0:
            raise ValueError(f"`table_error` must be positive, or 0 for no tables, got {table_error}")
        if table_error > 0:
            self.potential.tabulate(table_error)
        self.graph_of = VerletGraph(self.potential.cutoff, skin)
        self._stress_wanted = False

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """What the results depend on and is not as it was; ASE asks at least twice in every step.

        Args:
            atoms: To compare with those of the last results.
            tol: Ignored: any change counts.
        """
        known = self.atoms
        if known is None or len(known) != len(atoms):
            return list(WHAT_COUNTS)
        before = (known.positions, known.numbers, known.cell.array, known.pbc)
        now = (atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc)
        return [name for name, a, b in zip(WHAT_COUNTS, before, now) if (a != b).any()]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Fill ``results``: energies in eV, forces in eV/Å, stress in eV/Å³ (tension positive; xx yy zz yz xz xy).

        Raises:
            PropertyNotImplementedError: If the stress is asked for and the structure has no volume.
            ValueError: If the model does not know an element, or no neighbour list can be made.
            FloatingPointError: If energy or forces are not finite.
        """
        if atoms is not None and self.check_state(atoms):
            self.atoms = atoms.copy()
        self.results = {}
        stress = self._decide_on_stress("stress" in properties)
        graph = self.graph_of(self.atoms)
        if self.device.type != "cpu":
            graph = graph.to(self.device)
        results = _to_numpy(self.potential(graph, stress=stress))
        _refuse_if_not_finite(results, self.atoms)
        self.results = results

    def _decide_on_stress(self, asked: bool) -> bool:
        periodic = bool(self.atoms.pbc.any())
        has_volume = periodic and self.atoms.cell.rank == 3
        if asked and not has_volume:
            why = "its cell has no volume" if periodic else "it has no periodic direction"
            raise PropertyNotImplementedError(
                f"{self.atoms.get_chemical_formula()} has no stress: {why}. If it is meant to be periodic, "
                "set `atoms.cell` and `atoms.pbc`"
            )
        self._stress_wanted = self._stress_wanted or asked
        return self._stress_wanted and has_volume


def _own_copy(model_or_path: Potential | str | os.PathLike[str], device: torch.device, dtype: torch.dtype) -> Potential:
    if isinstance(model_or_path, Potential):
        potential = copy.deepcopy(model_or_path).to(device=device, dtype=dtype).eval()
    elif isinstance(model_or_path, (str, os.PathLike)):
        potential = load_potential(model_or_path, device=device, dtype=dtype)
    else:
        raise TypeError(f"`model_or_path` must be a model file or a Potential, got {type(model_or_path).__name__}")
    return potential.requires_grad_(False)  # else every pass would also build the gradients of the weights


def _to_numpy(output: dict[str, Tensor]) -> dict[str, Any]:
    """Results under ASE's names, with one copy from the device instead of four that each wait for it."""
    names = [name for name in ("energy", "node_energy", "forces", "stress") if name in output]
    numbers = torch.cat([output[name].double().flatten() for name in names]).cpu().numpy()
    atoms = len(output["node_energy"])
    energy = float(numbers[0])
    results: dict[str, Any] = {
        "energy": energy,
        "free_energy": energy,
        "energies": numbers[1 : 1 + atoms],
        "forces": numbers[1 + atoms : 1 + 4 * atoms].reshape(atoms, 3),
    }
    if "stress" in output:
        results["stress"] = full_3x3_to_voigt_6_stress(numbers[1 + 4 * atoms :].reshape(3, 3))
    return results


def _refuse_if_not_finite(results: dict[str, Any], atoms: Atoms) -> None:
    finite = np.isfinite(results["energies"]) & np.isfinite(results["forces"]).all(axis=1)
    if finite.all():
        return
    atom = int(np.argmin(finite))
    raise FloatingPointError(
        f"energy or forces of {np.count_nonzero(~finite)} of {len(atoms)} atoms are not finite, first of atom {atom} "
        f"({atoms.symbols[atom]}): {results['energies'][atom]} eV, {results['forces'][atom]} eV/Å. Usually two "
        "atoms are far closer than in any training structure (too long a timestep, a bad start), or training diverged "
        "and the weights are not finite"
    )
