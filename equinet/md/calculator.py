"""A potential as an ASE calculator."""

from __future__ import annotations

import copy
import os
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from torch import Tensor

from equinet.accelerate.capture import StaticStep
from equinet.checkpoint import load_potential
from equinet.datasets.composition import warn_if_undetermined
from equinet.datasets.properties import property_named
from equinet.graph.atomic_graph import AtomicGraph
from equinet.graph.verlet import VerletGraph
from equinet.nn.prediction import Prediction
from equinet.ops import SpeciesGroups
from equinet.ops.devices import choose_device
from equinet.ops.precision import Precision, matmul_precision, require_available
from equinet.potential import Potential
from equinet.verify.backends import Rounding, require_backend_match, rounding

from .refusing import RefusingCalculator, require_atoms

WHAT_COUNTS = ("positions", "numbers", "cell", "pbc")
DTYPES = {"float64": torch.float64, "float32": torch.float32}

# Of tables in float32: forces then err by 1e-8 eV/Å, a thousandth of what float32 makes of them.
TABLE_ERROR = 1e-6


class CoarseProducts(UserWarning):
    """Says what matrix products in less than float32, which were asked for, cost in accuracy."""


class EquinetCalculator(RefusingCalculator):
    """Energies, forces and stress of a potential, for everything in ASE that asks a calculator.

    Threads may share one: they take turns. A copy or a pickle of it is independent.

    Energy and forces are computed together. The stress is computed when it is asked for; once it has been, it comes
    with every further periodic structure, as a barostat or a cell filter will ask again and a second pass costs twice.

    Args:
        model_or_path: A model file (``*.eqn``) or a potential. A potential is copied: the caller's keeps its precision,
            its device and its training mode.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ...
        dtype: Precision of weights and arithmetic, ``"float64"`` or ``"float32"``. Forces in float32 are good to about
            1e-5 eV/Å: enough for dynamics, too little for phonons and tight relaxations.
        skin: Margin in Å beyond the cutoff for the neighbour search, so that they need not be searched for in every step;
            see :class:`equinet.graph.verlet.VerletGraph`. Speed alone depends on it, and 0 searches for every structure.
        table_error: Largest relative error of the tables that replace the radial networks (:meth:`equinet.Potential.tabulate`), 0 for no
            tables. By default 1e-6 in float32, far below its rounding, and 0 in float64 and for models whose radial networks
            are no functions of the distance alone (``model.not_tabulable`` says which).
        matmul: Arithmetic of the matrix products of the radial network, the mixing of channels and the readout: ``"ieee"``,
            float32 as it is; ``"tf32"`` or ``"bf16"``, coarser and on a GPU faster (:mod:`equinet.ops.precision`). What that errs on
            the first structure is in :attr:`rounding`, and a warning says it.
        capture: Record a step as one CUDA graph and replay it (:class:`equinet.accelerate.capture.StaticStep`): on a GPU several times faster for
            small systems, whose time goes into starting kernels.

    Attributes:
        rounding: Errors against float64 on the first structure; None before it, and with ``matmul="ieee"``.

    Raises:
        FileNotFoundError: If ``model_or_path`` is a path and there is no such file.
        TypeError: If it is neither a path nor a potential.
        ValueError: If the file is no potential, ``device``, ``dtype`` or ``matmul`` is unknown or not there, ``skin`` or ``table_error``
            is negative, or tables or a recorded step are asked for and cannot be made.

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
        matmul: Precision = "ieee",
        capture: bool = False,
    ) -> None:
        super().__init__()
        if dtype not in DTYPES:
            raise ValueError(f'`dtype` must be "float64" or "float32", got {dtype!r}')
        self.device = choose_device(device)
        require_available(matmul, self.device, DTYPES[dtype])
        self.potential = _own_copy(model_or_path, self.device, DTYPES[dtype])
        if table_error is None:
            table_error = TABLE_ERROR if dtype == "float32" and self.potential.model.not_tabulable is None else 0.0
        if table_error < 0:
            raise ValueError(f"`table_error` must be positive, or 0 for no tables, got {table_error}")
        if table_error > 0:
            self.potential = self.potential.tabulate(table_error)
        self.implemented_properties = [*self.implemented_properties, *self.potential.model.predicts]
        self.graph_of = VerletGraph(self.potential.cutoff, skin)
        self.matmul = matmul
        self.rounding: Rounding | None = None
        self._exact = None if matmul == "ieee" else _own_copy(model_or_path, self.device, torch.float64)
        self._compared = False
        self._warned = False
        if capture and self.device.type != "cuda":
            raise ValueError(f"`capture` records CUDA graphs, and the device is {self.device}; leave it out")
        self._step = StaticStep(self.potential, skin) if capture else None
        self._groups: tuple[Tensor, SpeciesGroups] | None = None
        self._stress_wanted = False
        self._turn = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the lock, which belongs to the threads of one process."""
        return {name: value for name, value in vars(self).items() if name != "_turn"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _turn=threading.RLock())

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Result by its ASE name, computed if ``atoms`` have changed; see :class:`ase.calculators.calculator.Calculator`."""
        with self._turn:  # from the comparison with the last structure to the copy of the result
            return super().get_property(name, atoms, allow_calculation)

    def check_state(self, atoms: Atoms, tol: float = 0.0) -> list[str]:
        """Inputs of the last results that have changed; ASE asks at least twice in every step.

        Args:
            atoms: Atoms to compare with those of the last results.
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

        The first time, the potential is compared with its formulas on a few of the atoms (:func:`equinet.verify.backends.require_backend_match`).
        Atoms of a composition for which the training set did not determine the reference energies are warned of once.

        Raises:
            BackendMismatchError: If it differs from them.
            PropertyNotImplementedError: If the stress is asked for and the structure has no volume.
            ValueError: If the model does not know an element, or no neighbour list can be made.
            FloatingPointError: If energy or forces are not finite.
        """
        if atoms is not None and self.check_state(atoms):
            self.atoms = atoms.copy()
        self.results = {}
        stress = self._decide_on_stress("stress" in properties)
        self._warned = self._warned or warn_if_undetermined([self.atoms], self.potential.references)
        with matmul_precision(self.matmul):
            if not self._compared:
                self._compared = require_backend_match(self.potential, self._graph()[0])
            if self._step is None:
                graph, groups = self._graph()
                results = _to_numpy(self.potential(graph, stress=stress, groups=groups))
            else:
                results = _to_numpy(self._step(self.atoms, stress=stress))
            _refuse_if_not_finite(results, self.atoms)
            if self._exact is not None:
                self.rounding, self._exact = rounding(self.potential, self._exact, self._graph()[0]), None
                what = f'matrix products in {self.matmul} (`matmul="{self.matmul}"`): {self.rounding}, on {self.atoms.symbols}'
                warnings.warn(what, CoarseProducts, stacklevel=2)
        self.results = results

    def _graph(self) -> tuple[AtomicGraph, SpeciesGroups]:
        """The graph of the atoms on the device, and their groups, which are made anew for other atoms only."""
        graph = self.graph_of(self.atoms)
        numbers = graph.atomic_numbers
        if self._groups is None or self._groups[0] is not numbers:
            self._groups = numbers, self.potential.groups(numbers.to(self.device))
        return graph if self.device.type == "cpu" else graph.to(self.device), self._groups[1]

    def _decide_on_stress(self, asked: bool) -> bool:
        require_atoms(self.atoms)
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
        traced = isinstance(model_or_path, torch.fx.GraphModule)
        kind = "a torch.fx.GraphModule; pass the Potential it was made of" if traced else type(model_or_path).__name__
        raise TypeError(f"`model_or_path` must be a model file or a Potential, got {kind}")
    return potential.requires_grad_(False)  # else every pass would also build the gradients of the weights


def _to_numpy(output: Prediction) -> dict[str, Any]:
    """Results under ASE's names, with one copy from the device instead of several that each wait for it."""
    tensors = dict(output)
    numbers = torch.cat([tensor.double().flatten() for tensor in tensors.values()]).cpu().numpy()
    parts = np.split(numbers, np.cumsum([tensor.numel() for tensor in tensors.values()])[:-1])
    values = {name: part.reshape(tensor.shape) for (name, tensor), part in zip(tensors.items(), parts)}
    energy = float(values.pop("energy")[0])
    results: dict[str, Any] = {"energy": energy, "free_energy": energy, "energies": values.pop("node_energy")}
    for name, value in values.items():
        whole = value[0] if property_named(name).per == "structure" else value
        results[name] = full_3x3_to_voigt_6_stress(whole) if name == "stress" else whole
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
