"""Physics checks of a potential on given structures: symmetries, additivity, derivatives."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from torch import Tensor

from equinet.datasets import LabelKeys, source, to_graphs
from equinet.datasets.frames import SOURCE, has_volume
from equinet.graph.atomic_graph import AtomicGraph, collate, from_atoms
from equinet.potential import Potential, require_potential
from equinet.tables import Cell, Column, Table, Text

NO_LABELS = LabelKeys.none()  # for `read_frames`: a check needs none, and a wrong label is no reason to refuse

# property -> what is wrong with a potential that fails it
PROPERTIES = {
    "rotation": "results depend on how a structure is turned",
    "inversion": "a structure and its mirror image get different results",
    "translation": "results depend on where a structure lies",
    "permutation": "results depend on the order of the atoms",
    "batch mates": "results depend on what else is in the batch",
    "doubled cell": "twice the cell does not have twice the energy",
    "F = -dE/dx": "forces are not minus the gradient of the energy, so dynamics will not conserve it",
    "σ = dE/dε/V": "the stress is not the derivative of the energy, so cells will relax to wrong sizes",
}
UNITS = {"energy": "eV/atom", "forces": "eV/Å", "stress": "eV/Å³"}
DIRECTIONS = 3  # random rotations, displacements and strains of each structure
STEP = 1e-4  # Å, and as much strain: the formula errs by 1e-8 at most and rounding by 1e-9
RATTLE = 0.05  # Å, about the thermal motion at room temperature
MOST_ATOMS_DOUBLED = 250
NOTHING = 1e-6  # eV, eV/Å: a potential weaker than this is measured as if it were as strong
Output = dict[str, Tensor]  # of a potential, in float64


@dataclass(frozen=True)
class Finding:
    """An error of the total energy (eV per atom), or root mean square over components of forces (eV/Å) or stress (eV/Å³)."""

    property: str
    dtype: str
    quantity: str
    structure: str
    absolute: float
    relative: float
    tolerance: float


@dataclass(frozen=True)
class Report:
    """Result of :func:`check`: every error, names of the structures, sizes of energies (eV) and forces (eV/Å)."""

    findings: tuple[Finding, ...]
    structures: tuple[str, ...]
    scales: Mapping[str, float]

    def worst(self, *asked: str) -> Finding | None:
        """The largest error of a property, or of property and precision, or of those and a quantity; None if not measured."""
        found = [f for f in self.findings if (f.property, f.dtype, f.quantity)[: len(asked)] == asked]
        return max(found, key=lambda f: f.relative / f.tolerance, default=None)

    @property
    def failures(self) -> list[Finding]:
        """The worst error of every property that fails."""
        return [f for name in PROPERTIES if (f := self.worst(name)) and f.relative > f.tolerance]

    @property
    def missing(self) -> list[str]:
        """Properties that no structure could show."""
        return [name for name in PROPERTIES if not self.worst(name)]

    def table(self) -> Table:
        """One row a property."""
        size = "{energy:.3g} eV an atom (without E0) and {forces:.3g} eV/Å".format(**self.scales)
        caption = f"errors relative to the size of what is computed, here {size}; on the right absolute"
        absolute = ("float32\neV/atom", "\neV/Å", "float64\neV/atom", "\neV/Å")
        titles = ("property", "float32", "float64", "tolerance", "verdict", *absolute)
        columns = [Column(title, number=k > 0, tone="faint" if k > 4 else "") for k, title in enumerate(titles)]
        failed = [f.property for f in self.failures]
        rows: list[tuple[Cell, ...]] = []
        for name in PROPERTIES:
            pair = [self.worst(name, dtype) for dtype in ("float32", "float64")]
            both = [self.worst(name, dtype, of) for dtype in ("float32", "float64") for of in ("energy", "forces")]
            relative = [f"{f.relative:.1e}" if f else "-" for f in pair]
            limits = " ".join(f"{f.tolerance:.0e}" for f in pair if f)
            held = Text("holds", "good") if any(pair) else Text("not seen", "warning")
            verdict = Text("FAILS", "bad") if name in failed else held
            rows.append((name, *relative, limits, verdict, *(f"{f.absolute:.0e}" if f else "-" for f in both)))
        return Table("", columns, rows, caption)

    def sentences(self) -> list[str]:
        """Sentences on the worst structure of each failing property, and a summary."""
        lines = [
            f"{f.property}: worst in {f.structure}: {f.quantity} off by {f.absolute:.2g} {UNITS[f.quantity]} in {f.dtype}, "
            f"relative {f.relative:.1e}, {f.relative / f.tolerance:.2g} times the tolerance"
            for f in self.failures
        ]
        if self.missing:
            need = f"a periodic structure with a volume and, to double it, no more than {MOST_ATOMS_DOUBLED} atoms"
            lines.append(f"not seen: {', '.join(self.missing)}; that needs {need}")
        measured = len(PROPERTIES) - len(self.missing)
        meaning = "; ".join(PROPERTIES[f.property] for f in self.failures)
        fails = f"{len(self.failures)} of {measured} properties fail: {meaning}."
        return [*lines, fails if self.failures else f"All {measured} properties hold, in float32 and in float64."]

    def as_json(self) -> dict[str, Any]:
        """Verdict, scales, structures, and the worst error by property, precision and quantity."""
        names = itertools.product(PROPERTIES, ("float32", "float64"), UNITS)
        worst = [asdict(f) | {"unit": UNITS[f.quantity]} for each in names if (f := self.worst(*each))]
        verdict = {"holds": not self.failures, "fails": [f.property for f in self.failures], "not_seen": self.missing}
        return {**verdict, "scales": dict(self.scales), "structures": list(self.structures), "worst": worst}


def check(
    potential: Potential,
    structures: Sequence[Atoms] | None = None,
    *,
    tolerance_float32: float = 3e-5,
    tolerance_float64: float = 1e-10,
    seed: int = 0,
    max_structures: int = 20,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    r"""Measure what every potential must pass, in float32 and float64, on copies: the caller's potential stays as it is.

    Errors are relative to the size of what is computed. Of energies that is the root mean square of the atoms' interaction
    energies :math:`E_i - E^0_{z_i}`: reference energies are thousands of eV and depend on no structure, and the sum over a
    structure may cancel. Of forces it is that of a component, in the structures as they are and displaced by 0.05 Å: a
    perfect crystal has no forces, but rounds like others. Of stress it is the interaction energy per volume. Each is that
    of the structure at hand, or the root mean square over all structures if that is larger.

    Args:
        potential: Potential to check, on its own device.
        structures: Any structures of elements it knows, labels are ignored; by default :func:`own_structures`.
        tolerance_float32: Largest relative error that passes; rounding makes about a tenth of the default.
        tolerance_float64: The same in float64. Finite differences, in float64 only, are less exact and get at least 1e-6.
        seed: Decides rotations, orders, directions and the structures that are made here.
        max_structures: Largest number of ``structures`` to take, spread evenly.
        advance: Called with the numbers of measurements done and in all.

    Raises:
        ValueError: If a number is not positive, there is no structure, an element is unknown, or atoms are on one spot.
        FloatingPointError: If energy or forces are not finite.
    """
    require_potential(potential)
    limits = {"float32": tolerance_float32, "float64": tolerance_float64}
    if not (max_structures >= 1 and tolerance_float32 > 0 and tolerance_float64 > 0):
        got = f"{max_structures} structures and {limits}"
        raise ValueError(f"a check needs one structure or more and positive tolerances, got {got}")
    offered = own_structures(potential.elements, potential.cutoff, seed) if structures is None else list(structures)
    if not offered:
        raise ValueError("there is nothing to check: `structures` is empty")
    chosen = []
    count = len(offered) if structures is None else min(max_structures, len(offered))
    for n in np.linspace(0, len(offered) - 1, count).round().astype(int):
        bare = Atoms(offered[n].numbers, offered[n].positions, cell=offered[n].cell, pbc=offered[n].pbc)  # no labels
        bare.info[SOURCE] = offered[n].info.get(SOURCE, f"structure {n} ({bare.get_chemical_formula()})")
        chosen.append(bare)
    graphs = [graph.to(potential.device) for graph in to_graphs(chosen, potential.cutoff, potential.elements)]
    findings: list[Finding] = []
    for k, dtype in enumerate(("float64", "float32")):
        survey = _Survey(copy.deepcopy(potential).to(getattr(torch, dtype)), chosen, graphs, seed)
        if dtype == "float64":
            overall, scales = survey.scales()
        for n, atoms in enumerate(chosen):
            for name, of, error, unresolved in survey.errors(n):
                limit = max(tolerance_float64, 1e-6) if "=" in name else limits[dtype]
                relative, limit = error / scales[n][of], max(limit, unresolved / scales[n][of])
                findings.append(Finding(name, dtype, of, source(atoms), error, relative, limit))
            advance(k * len(chosen) + n + 1, 2 * len(chosen))
    return Report(tuple(findings), tuple(source(atoms) for atoms in chosen), overall)


class _Survey:
    """A potential in one precision, and what it says of each structure by itself."""

    def __init__(self, potential: Potential, structures: list[Atoms], graphs: list[AtomicGraph], seed: int) -> None:
        self.potential = potential.eval().requires_grad_(False)
        self.structures, self.graphs, self.seed = structures, graphs, seed
        self.alone = [self.run(graph, n) for n, graph in enumerate(graphs)]

    def run(self, graph: AtomicGraph, n: int) -> Output:
        output = {name: value.double() for name, value in self.potential(graph, stress=True).items()}
        if not (output["energy"].isfinite().all() and output["forces"].isfinite().all()):
            where = f"{source(self.structures[n])}: energy or forces are not finite in {self.potential.dtype}"
            raise FloatingPointError(f"{where}; if the structure is sound, the weights are not")
        return output

    def scales(self) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Size of each quantity, over all structures and for each of them; see :func:`check`."""
        sizes = []
        for n, (graph, output) in enumerate(zip(self.graphs, self.alone)):
            reference = self.potential.scale.reference[self.potential.species(graph.atomic_numbers)]
            forces = torch.cat([output["forces"], self.run(self.displaced(n), n)["forces"]])
            sizes.append([_rms(output["node_energy"] - reference), _rms(forces)])
        energy, forces = (
            torch.tensor(sizes, dtype=torch.float64).square().mean(dim=0).sqrt().clamp(min=NOTHING).tolist()
        )
        each = [{"energy": max(energy, own[0]), "forces": max(forces, own[1])} for own in sizes]
        for atoms, own, output in zip(self.structures, each, self.alone):
            virial = own["energy"] * len(atoms) / (float(atoms.cell.volume) or 1.0)
            own["stress"] = max(virial, _rms(output["stress"].nan_to_num()))
        return {"energy": energy, "forces": forces}, each

    def errors(self, n: int) -> Iterator[tuple[str, str, float, float]]:
        """Property, quantity, absolute error of structure ``n``, and what float64 cannot resolve."""
        graph, atoms, alone, random = self.graphs[n], self.structures[n], self.alone[n], self.random(n)
        # A total energy of 10^6 eV is a multiple of 10^-10 eV, which is no error of the model.
        unit = 4 * torch.finfo(torch.float64).eps * float(alone["energy"].abs())
        for name, got, want in self.comparisons(n, random):
            yield name, "energy", float((got["energy"] - want["energy"]).abs()) / len(atoms), unit / len(atoms)
            yield name, "forces", _rms(got["forces"] - want["forces"]), 0.0
            if want["stress"].isfinite().all():
                yield name, "stress", _rms(got["stress"] - want["stress"]), 0.0
        for _ in range(DIRECTIONS if self.potential.dtype == torch.float64 else 0):  # float32 is too coarse
            way = random(len(atoms), 3)
            error, size = self.gradient(n, positions=way) + (alone["forces"] * way).sum(), float(way.norm())
            yield "F = -dE/dx", "forces", float(error.abs()) / size, unit / STEP / size
            if has_volume(atoms):
                strain, volume = random(3, 3).triu(), float(atoms.cell.volume)
                strain = strain + strain.T
                gradient = self.gradient(n, positions=graph.positions @ strain, cell=graph.cell @ strain)
                error, size = gradient - volume * (alone["stress"][0] * strain).sum(), volume * float(strain.norm())
                yield "σ = dE/dε/V", "stress", float(error.abs()) / size, unit / STEP / size

    def comparisons(self, n: int, random: Callable[..., Tensor]) -> Iterator[tuple[str, Output, Output]]:
        """Property, what is computed, and what it should be."""
        graph, atoms, want = self.graphs[n], self.structures[n], self.alone[n]
        # Edges are turned with the atoms, not searched anew: a search may decide either way about a pair at the cutoff.
        # An improper rotation is the inversion and a proper one, so the inversion says all that rotations do not.
        for k in range(DIRECTIONS + 1):
            q = torch.linalg.qr(random(3, 3))[0]
            name, q = ("rotation", q * torch.linalg.det(q)) if k else ("inversion", -torch.eye(3).to(q))
            turned = copy.copy(graph).update({"positions": graph.positions @ q.T, "cell": graph.cell @ q.T})
            expected = {**want, "forces": want["forces"] @ q.T, "stress": q @ want["stress"] @ q.T}
            yield name, self.run(turned, n), expected
        shifted = copy.copy(graph).update({"positions": graph.positions + 10 * random(3)})
        yield "translation", self.run(shifted, n), want
        order = random(len(atoms)).argsort()
        edge_index = order.argsort()[graph.edge_index]
        edges = edge_index[1].argsort(stable=True)  # by receiver, as ever
        fields = {"positions": graph.positions[order], "atomic_numbers": graph.atomic_numbers[order]}
        fields |= {
            "edge_index": edge_index[:, edges],
            "unit_shifts": graph.unit_shifts[edges],
            "pairs": graph.pairs[edges],
        }
        yield "permutation", self.run(copy.copy(graph).update(fields), n), {**want, "forces": want["forces"][order]}
        batch = collate([self.displaced(n), graph, self.graphs[(n + 1) % len(self.graphs)]])
        together = self.run(batch, n)
        own = {"energy": together["energy"][1], "stress": together["stress"][1]}
        yield "batch mates", {**own, "forces": together["forces"][batch.graph_of_node == 1]}, want
        if atoms.pbc.any() and len(atoms) <= MOST_ATOMS_DOUBLED:
            axes = np.flatnonzero(atoms.pbc)
            doubled = atoms.repeat(np.where(np.arange(3) == axes[n % len(axes)], 2, 1))
            twice = self.run(from_atoms(doubled, self.potential.cutoff).to(self.potential.device), n)
            twice["energy"] = twice["energy"] / 2
            yield "doubled cell", twice, {**want, "forces": want["forces"].repeat(2, 1)}

    def gradient(self, n: int, **rates: Tensor) -> Tensor:
        """Derivative of the energy while fields of a graph change at these rates, by central differences of fourth order."""
        energy = {}
        for k in (-2, -1, 1, 2):
            changed = {name: self.graphs[n][name] + k * STEP * rate for name, rate in rates.items()}
            energy[k] = self.run(copy.copy(self.graphs[n]).update(changed), n)["energy"]
        return (8 * (energy[1] - energy[-1]) - (energy[2] - energy[-2])) / (12 * STEP)

    def displaced(self, n: int) -> AtomicGraph:
        """Structure ``n`` with its atoms a little off."""
        atoms = self.structures[n].copy()
        if len(atoms) == 1:  # with all its images it would only be shifted
            atoms = atoms.repeat(np.where(atoms.pbc, 2, 1))
        atoms.positions += np.random.default_rng([self.seed, n]).normal(scale=RATTLE, size=(len(atoms), 3))
        return from_atoms(atoms, self.potential.cutoff).to(self.potential.device)

    def random(self, n: int) -> Callable[..., Tensor]:
        """A function that makes normal numbers for structure ``n``, the same in both precisions."""
        rng = np.random.default_rng([self.seed, n])
        return lambda *shape: torch.from_numpy(rng.normal(size=shape)).to(self.potential.device)


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def own_structures(elements: Sequence[int], cutoff: float, seed: int = 0) -> list[Atoms]:
    """Random clusters in which every element occurs, a slab, a triclinic crystal, a pair and an isolated atom.

    No two atoms are closer than 0.9 times the sum of their covalent radii (each taken for a quarter of the cutoff at most).
    """
    rng = np.random.default_rng(seed)
    supply = itertools.cycle(rng.permutation(elements).tolist())
    kinds = [("random cluster", 8, 0)] * -(-len(elements) // 8)
    kinds += [("random slab", 8, 2), ("random crystal", 8, 3), ("pair", 2, 0), ("isolated atom", 1, 0)]
    made = []
    for kind, size, periodic in kinds:
        numbers = list(itertools.islice(supply, size))
        step = 3 * min(max(covalent_radii[numbers].max(), 0.5), cutoff / 4)
        grid = step * np.array([[1.0, 0.0, 0.0], [0.25, 1.0, 0.0], [-0.2, 0.2, 1.0]])
        places = np.array(list(itertools.product((0, 1), repeat=3)))[:size] + rng.uniform(-0.1, 0.1, (size, 3))
        cell = 2 * grid * [[1], [1], [3 if periodic == 2 else 1]]
        made.append(Atoms(numbers, places @ grid, cell=cell, pbc=np.arange(3) < periodic))
        made[-1].info[SOURCE] = f"{kind} {made[-1].get_chemical_formula()}"
    return made
