"""Comparison of one model: it is made and written, read back by equinet, compared, and both are timed in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from equinet.bench.core import EAGER, EQUINET
from equinet.bench.core.record import Row, Settings
from equinet.bench.core.timing import Ratio, Timing
from equinet.bench.models.pair import mean_neighbors
from equinet.bench.peers.mace_torch.model import batch_of, mace_defaults, read_mace
from equinet.bench.peers.mace_torch.weights import lively_mace
from equinet.convert.mace.architecture import architecture_of, heads_of
from equinet.convert.mace.load import load_mace
from equinet.convert.mace.reader import read_record
from equinet.graph.atomic_graph import from_atoms
from equinet.potential import Potential
from equinet.verify.backends import reference_potential

from .cases import Case
from .errors import QUANTITIES, Errors, Outcome, errors_of
from .structures import structures, structures_of, timed

E0S = {1: -13.6, 6: -1027.9, 8: -2042.0, 14: -297.3}  # eV, of the size that DFT gives
# A tensor of weights must change energies by so much of themselves when it changes by all of itself: otherwise a mistake in
# it would go unseen. A thousand times the limit in float64 is plenty.
INFLUENCE = 1e-6


@dataclass(kw_only=True)
class Cell(Row):
    """Comparison of one model; ``problem`` is its name, ``timing`` that of equinet for energy and forces in float32.

    Attributes:
        case: Form of the model, if it was made here.
        errors: Errors of every structure and head.
        quietest: Tensor of weights with the least influence on the energy, and its influence.
        size: Largest interaction energy of a structure in eV, largest force in eV/Å.
        mace_timing: Times of mace-torch.
        over_equinet: mace-torch's time over equinet's.
        failures: Reasons why the comparison failed.
        seconds: Time that all of this took, in seconds.
    """

    contender: str = EQUINET
    case: Case | None = None
    errors: list[Errors] = field(default_factory=list)
    quietest: tuple[str, float] | None = None
    size: tuple[float, float] = (0.0, 0.0)
    mace_timing: Timing | None = None
    over_equinet: Ratio | None = None
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def state(self) -> str:
        """``"FAILED"`` or ``"measured"``."""
        return "FAILED" if self.failures else "measured"

    @property
    def unsteady(self) -> bool:
        """True if one of the times cannot be trusted."""
        return any(timing.unsteady for timing in (self.timing, self.mace_timing) if timing is not None)

    def worst(self, column: str, quantity: str | None = None) -> float | None:
        """The largest error of ``"double"``, ``"single"`` or ``"of_mace"``, of one quantity or of all; None if there is none."""
        names = QUANTITIES if quantity is None else (quantity,)
        found = [getattr(one, column)[name] for one in self.errors for name in names if name in getattr(one, column)]
        return max(found, default=None)


def compare_case(case: Case, folder: Path, settings: Settings, seed: int = 0) -> Cell:
    """Make a random model of this form, with weights of ``seed``, and compare; whatever goes wrong is in the cell."""
    cell, began = Cell(problem=str(case), case=case), time.perf_counter()
    path = folder / "random.model"
    try:
        frames = structures()
        model = lively_mace(
            case.config,
            E0S,
            mean_neighbors(list(frames.values()), case.config.cutoff),
            list(frames.values()),
            heads=case.head_names,
            use_reduced_cg=case.coupling == "reduced",
            seed=seed,
            **case.switches,
        )
        model = model.to(getattr(torch, case.file_dtype))
        torch.save(model, path)
        _compare(cell, model, path, frames, timed(), settings)
        if cell.quietest is not None and not cell.quietest[1] >= INFLUENCE:
            name, influence = cell.quietest
            cell.failures.append(
                f"{name} hardly changes the energy ({influence:.0e}): a mistake in it would not be seen"
            )
    except Exception as error:  # either package raises what it likes, and a cell that fails is shown with its reason
        cell.failures.append(f"{type(error).__name__}: {error}".replace(str(path), path.name))
    cell.seconds = time.perf_counter() - began
    return cell


def compare_file(path: Path, frames: Mapping[str, Atoms], settings: Settings) -> Cell:
    """Compare a model file; mace-torch unpickles it, which runs code in it.

    Args:
        path: ``*.model``.
        frames: Structures, by name; if there are none, some are made of the elements of the model.
        settings: Settings of the timing.

    Raises:
        ValueError: If equinet has no form for it, mace-torch cannot read it, or it does not know an element.
    """
    cell, began = Cell(problem=path.name), time.perf_counter()
    record = read_record(path)  # first, as it runs nothing of the file and refuses what cannot be compared
    dtype = str(architecture_of(record).dtype).removeprefix("torch.")
    model = read_mace(path, heads_of(record)[0], dtype)
    elements = model.atomic_numbers.tolist()
    for name, atoms in frames.items():
        if unknown := sorted(set(atoms.get_chemical_symbols()) - set(Atoms(elements).get_chemical_symbols())):
            raise ValueError(f"{path.name} does not know {', '.join(unknown)} of {name}")
    made, crystal = structures_of(elements)
    largest = max(frames.values(), key=len) if frames else crystal
    try:
        _compare(cell, model, path, frames or made, largest, settings)
    except Exception as error:  # as above
        cell.failures.append(f"{type(error).__name__}: {error}".replace(str(path), path.name))
    cell.seconds = time.perf_counter() - began
    return cell


def _compare(cell: Cell, model: Any, path: Path, frames: Mapping[str, Atoms], large: Atoms, settings: Settings) -> None:
    """Fill the cell. ``model`` is what the file holds; it is float32 afterwards."""
    heads = list(getattr(model, "heads", None) or ["Default"])
    judged = next(model.parameters()).dtype == torch.float64
    model = model.double().requires_grad_(False)
    names, atoms = list(frames), list(frames.values())
    potentials = {head: load_mace(path, head=head, dtype=torch.float64) for head in heads}
    truths = {head: outcomes_of_mace(model, atoms, head, heads, "float64") for head in heads}
    isolated = {head: isolated_energies(model, head, heads) for head in heads}
    double = {head: [outcome_of(potentials[head], one, isolated[head]) for one in atoms] for head in heads}
    cell.size = (
        max(abs(truth.energy) for truths_ in truths.values() for truth in truths_),
        max(float(np.abs(truth.forces).max()) for truths_ in truths.values() for truth in truths_),
    )
    silent = cell.case.silent if cell.case is not None else ()
    cell.quietest = quietest_part(model, list(frames.values()), heads, silent)
    model = model.float()
    for head in heads:
        potential = potentials[head].to(torch.float32)
        of_mace = outcomes_of_mace(model, atoms, head, heads, "float32")
        for n, truth in enumerate(truths[head]):
            columns = (double[head][n], outcome_of(potential, atoms[n], isolated[head]), of_mace[n])
            in_double, in_single, theirs = (errors_of(one, truth) for one in columns)
            cell.errors.append(Errors(names[n], head, in_double, in_single, theirs, judged))
    own = {name: cell.worst("of_mace", name) or 0.0 for name in QUANTITIES}
    for n, one in enumerate(cell.errors):
        if one.excesses(own):
            twin = reference_potential(load_mace(path, head=one.head, dtype=torch.float64)).to(torch.float32)
            found = outcome_of(twin, frames[one.structure], isolated[one.head])
            truth = truths[one.head][names.index(one.structure)]
            cell.errors[n] = replace(one, of_formulas=errors_of(found, truth))
    cell.failures += [line for one in cell.errors for line in one.excesses(own)]
    cell.error = cell.worst("single")
    if not cell.failures:
        _time(cell, model, potentials[heads[-1]], large, heads, settings)


def isolated_energies(model: Any, head: str, heads: Sequence[str]) -> Mapping[int, float]:
    """Energies of isolated atoms in eV by atomic number, as mace-torch has them in its present precision."""
    energies = torch.atleast_2d(model.atomic_energies_fn.atomic_energies)[list(heads).index(head)]
    return dict(zip(model.atomic_numbers.tolist(), energies.tolist()))


def outcome_of(potential: Potential, atoms: Atoms, e0s: Mapping[int, float]) -> Outcome:
    """Return equinet's results through its public interface, less mace-torch's energies of isolated atoms."""
    graph = from_atoms(atoms, potential.cutoff)
    found = potential(graph, stress=True)
    isolated = torch.tensor([e0s[z] for z in atoms.numbers], dtype=torch.float64)
    virial = -found["stress"][0].double().numpy() * atoms.get_volume() if _has_virial(atoms) else None
    return Outcome(
        float(found["energy"] - isolated.sum()),
        (found["node_energy"].double() - isolated).numpy(),
        found["forces"].double().numpy(),
        virial,
    )


def outcomes_of_mace(model: Any, frames: Sequence[Atoms], head: str, heads: Sequence[str], dtype: str) -> list[Outcome]:
    """Return mace-torch's results, with its virials, as it stretches the cell of a slab along its open direction."""
    elements = model.atomic_numbers.tolist()
    with mace_defaults(dtype):
        inputs = batch_of(frames, elements, float(model.r_max), head=head, heads=heads).to_dict()
        found = model(inputs, compute_virials=True)
    e0s = isolated_energies(model, head, heads)
    isolated = torch.tensor([e0s[z] for atoms in frames for z in atoms.numbers], dtype=torch.float64)
    counts = [len(atoms) for atoms in frames]
    per_atom = (found["node_energy"].double() - isolated).detach().split(counts)
    # A MACE without scale and shift gives the total only.
    alone = torch.stack([part.sum() for part in isolated.split(counts)])
    energies = found["interaction_energy"] if "interaction_energy" in found else found["energy"].double() - alone
    forces = found["forces"].detach().double().split(counts)
    virials = found["virials"].detach().double()
    return [
        Outcome(
            energies[n].item(),
            per_atom[n].numpy(),
            forces[n].numpy(),
            virials[n].numpy() if _has_virial(atoms) else None,
        )
        for n, atoms in enumerate(frames)
    ]


def _has_virial(atoms: Atoms) -> bool:
    return bool(atoms.pbc.any()) and atoms.cell.rank == 3


def quietest_part(
    model: Any, frames: Sequence[Atoms], heads: Sequence[str], silent: tuple[str, ...] = ()
) -> tuple[str, float]:
    """The tensor of weights with the least influence on the energy, and its influence: |w dE/dw| / |E|, over all structures and heads."""
    parts = {
        name: tensor
        for name, tensor in _parts(model)
        if tensor.is_floating_point() and tensor.numel() and not (silent and name.startswith(silent))
    }
    size, influence = 0.0, dict.fromkeys(parts, 0.0)
    elements = model.atomic_numbers.tolist()
    for tensor in parts.values():
        tensor.requires_grad_(True)
    with mace_defaults("float64"):
        for head in heads:
            inputs = batch_of(frames, elements, float(model.r_max), head=head, heads=heads).to_dict()
            found = model(inputs, compute_force=False)
            energy = found.get("interaction_energy", found["energy"])  # without a scale there is only one
            here = torch.autograd.grad(energy.sum(), list(parts.values()), allow_unused=True)
            size += float(energy.detach().abs().sum())
            for name, gradient in zip(parts, here):
                influence[name] += 0.0 if gradient is None else float((gradient * parts[name].detach()).norm())
    for tensor in parts.values():
        tensor.requires_grad_(False)
    name = min(influence, key=lambda name: influence[name])
    return name, influence[name] / size


def _parts(model: Any) -> list[tuple[str, torch.Tensor]]:
    """Weights, and constants that a file may have otherwise than we would make them."""
    named = ("radial_embedding.distance_transform", "pair_repulsion_fn", "scale_shift")
    constants = [
        (name, buffer)
        for name, buffer in model.named_buffers()
        if name.startswith(named) and not name.endswith("covalent_radii")
    ]
    return [*model.named_parameters(), *constants]


def _time(cell: Cell, model: Any, potential: Potential, atoms: Atoms, heads: Sequence[str], settings: Settings) -> None:
    """Energy and forces, float32, neighbour lists ready, weights frozen, as the calculators of both packages call them."""
    potential.requires_grad_(False)
    graph = from_atoms(atoms, potential.cutoff)
    with mace_defaults("float32"):
        elements = model.atomic_numbers.tolist()
        inputs = batch_of([atoms], elements, float(model.r_max), head=heads[-1], heads=heads).to_dict()
        calls = {
            EQUINET: lambda: potential(graph),
            EAGER: lambda: model(inputs, training=False, compute_force=True),
        }
        timings = settings.interleave(calls)
    cell.timing, cell.mace_timing = timings[EQUINET], timings[EAGER]
    cell.over_equinet = timings.ratio(EAGER, EQUINET)
