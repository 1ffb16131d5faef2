r"""A potential compared with its formulas on a small part of one's own input, before its first result is believed.

A kernel that passed its tests elsewhere may still be wrong here: another GPU, another driver, another version of torch. So where a
potential is first used, energies, forces and second derivatives of a few atoms are computed twice: as it stands, and by its reference
twin, which has the same weights and works term by term, in float64, on the CPU, with torch's own operations.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from equinet.graph.atomic_graph import AtomicGraph, displacements
from equinet.ops.devices import made_on_cpu
from equinet.ops.precision import Precision, chosen, formulas, matmul_precision
from equinet.potential import Potential

# The part that is computed twice.
MOST_ATOMS = 16
MOST_EDGES = 256
MOVED = 0.05  # Å: where atoms sit on lattice sites, much vanishes by symmetry, be it right or wrong

# Largest relative errors that pass: of the energy of an atom, of the force on one and of stress, of second derivatives. In float32
# rounding alone makes up to 8e-6, 1.3e-5 and 6e-5 (a thousand comparisons: all methods, all interactions, random weights), and 5e-6
# in trained models. Coarse products make up to 0.02 (TF32, imitated) and 0.13 (bf16) with random weights.
TOLERANCES: dict[tuple[torch.dtype, Precision], tuple[float, float, float]] = {
    (torch.float64, "ieee"): (1e-9, 1e-9, 1e-8),
    (torch.float32, "ieee"): (1e-4, 1e-4, 1e-3),
    (torch.float32, "tf32"): (0.1, 0.1, 0.1),
    (torch.float32, "bf16"): (0.5, 0.5, 0.5),
}
# A gradient smaller than this part of the largest is what rounding leaves of larger terms.
FLOOR = 1e-3

ENERGY, FORCES, STRESS = "energies of atoms", "forces", "stress"
Values = dict[str, Tensor]

_passed: set[tuple[object, ...]] = set()


class BackendMismatchError(RuntimeError):
    """A potential disagrees with its reference form; the message gives the errors and the remedy."""


@dataclass(frozen=True)
class Rounding:
    """Rounding errors of a potential on one structure, against itself in float64.

    Attributes:
        energy: Absolute, meV/atom.
        forces_rms, forces_max: Root mean square and largest error of a force component, meV/Å.
    """

    energy: float
    forces_rms: float
    forces_max: float

    def __str__(self) -> str:
        forces = f"forces by {self.forces_rms:.2g} meV/Å (RMS; most {self.forces_max:.2g})"
        return f"against float64 the energy errs by {self.energy:.2g} meV/atom, {forces}"


@made_on_cpu
def rounding(potential: Potential, exact: Potential, graph: AtomicGraph) -> Rounding:
    """Measure the rounding errors of a potential on a structure in the current arithmetic.

    Args:
        potential: Potential as it is used, on its own device.
        exact: The same in float64.
        graph: One structure; of several the first counts.
    """
    graph = copy.copy(graph).to(potential.device)
    first = graph.graph_of_node == 0
    with matmul_precision("ieee"):
        want = exact(graph)
    got = potential(graph)
    energy = (got["energy"] - want["energy"])[0].abs() / first.sum()
    forces = (got["forces"].double() - want["forces"])[first]
    return Rounding(1e3 * float(energy), 1e3 * _rms(forces), 1e3 * float(forces.abs().max()))


class Difference(NamedTuple):
    """Relative difference of a potential from its reference form in one quantity, and the tolerance."""

    quantity: str
    relative: float
    tolerance: float

    @property
    def tolerable(self) -> bool:
        """False also if it is not a number."""
        return self.relative <= self.tolerance

    @property
    def excess(self) -> float:
        """Ratio of the difference to the tolerance; infinity if it is not finite."""
        return self.relative / self.tolerance if math.isfinite(self.relative) else math.inf


@made_on_cpu
def require_backend_match(potential: Potential, graph: AtomicGraph) -> bool:
    """Compare a potential with its reference form on a small part of ``graph``, once in a process for all that kernels depend on.

    If coarse products are chosen (:mod:`equinet.ops.precision`), it is compared without them first and then with them.

    That is architecture, executors, device, precision, version of torch, the elements at hand, and whether weights are trained.
    Weights may change: a kernel that is right for some is right for others.

    Args:
        potential: Potential as it will be used; it is not changed.
        graph: Structures that it will be used on.

    Returns:
        Whether the potential counts as compared from now on. Not so if no atom of ``graph`` has a neighbour, or the twin gives
        no finite numbers either: then weights or structure are at fault, and whoever computes with them will see.

    Raises:
        BackendMismatchError: If they differ by more than rounding can explain.
        ValueError: If the model does not know an element.
    """
    part = small_part(graph)
    if part is None:
        return False
    key = _key(potential, part)
    if key in _passed or _is_reference(potential):
        return True
    for precision in dict.fromkeys(("ieee", chosen())):  # coarse products would hide what else is wrong
        with matmul_precision(precision):
            found = differences(potential, part)
            if found is None:
                return False
            if not all(difference.tolerable for difference in found):
                raise BackendMismatchError(_complaint(potential, part, found))
    _passed.add(key)
    return True


@made_on_cpu
def differences(potential: Potential, graph: AtomicGraph) -> list[Difference] | None:
    """Differences of a potential from its reference form on a small graph; None if the reference is not finite.

    Compared are the energy of every atom, the force on it, the stress where there is one, and second derivatives: of a random
    combination of forces and stress with respect to each weight, as training takes them; with respect to positions and cell
    where no weight is trained.
    """
    trained = any(parameter.requires_grad for parameter in potential.parameters())
    with torch.enable_grad():
        with formulas(), matmul_precision("ieee"):
            twin, own = reference_potential(potential), copy.copy(graph).to("cpu")  # `to` would move the caller's
            want, sizes = _evaluate(twin, own, trained), _sizes(twin, own)
        if not all(value.isfinite().all() for value in want.values()):
            return None
        got = _evaluate(potential, copy.copy(graph).to(potential.device), trained)
    energy, force, second = TOLERANCES[potential.dtype, chosen()]
    # Of the total energy of an atom, mostly its reference, float64 has sixteen digits.
    resolved = 4 * torch.finfo(torch.float64).eps * float(want[ENERGY].abs().max()) / sizes[ENERGY]
    limits = {ENERGY: max(energy, resolved), FORCES: force, STRESS: force}
    gradients = {name: _rms(value) for name, value in want.items() if name not in limits}
    found = []
    for name, value in want.items():
        error = got[name] - value
        if name in limits:
            found.append(Difference(name, float(error.abs().max()) / sizes[name], limits[name]))
        else:
            size = max(gradients[name], FLOOR * max(gradients.values())) or 1.0
            found.append(Difference(name, _rms(error) / size, second))
    return found


@made_on_cpu
def reference_potential(potential: Potential) -> Potential:
    """A copy in float64 on the CPU, with the same weights and tables, and every tensor product term by term.

    A CP decomposition stays one: its reference form is the exact tensor, which it may only approximate.
    """
    twin = copy.deepcopy(potential).cpu()
    for path in twin.model.executors():
        reference = twin.model.reference_executor(path)
        if reference is not None:
            twin.model.set_submodule(path, reference)
    return twin.double()


def small_part(graph: AtomicGraph) -> AtomicGraph | None:
    """A few neighbouring atoms of the first structure that has edges, and the edges among them; None if there are none.

    As many of its elements occur as fit. The atoms are moved a little and turned with their cell.
    """
    if not graph.num_edges:
        return None
    graph = copy.copy(graph).to("cpu")
    nodes = _choose(graph)
    number = torch.full((graph.num_nodes,), -1).index_put((nodes,), torch.arange(len(nodes)))
    edge_index = number[graph.edge_index]
    kept = (edge_index >= 0).all(dim=0).nonzero().squeeze(1)  # still sorted by receiver, as `nodes` are in order
    pairs = graph.pairs[kept]
    which = graph.graph_of_node[nodes[0]]
    random = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=random, dtype=torch.float64))[0]
    moves = 2 * torch.rand(len(nodes), 3, generator=random, dtype=torch.float64) - 1
    return AtomicGraph(
        positions=(graph.positions[nodes] + MOVED * moves) @ turn,
        atomic_numbers=graph.atomic_numbers[nodes],
        edge_index=edge_index[:, kept],
        unit_shifts=graph.unit_shifts[kept],
        pairs=2 * torch.unique(pairs // 2, return_inverse=True)[1] + pairs % 2,
        cell=graph.cell[which : which + 1] @ turn,
        pbc=graph.pbc[which : which + 1],
    )


def _choose(graph: AtomicGraph) -> Int[Tensor, " chosen"]:
    """Nodes in order: those of elements not seen yet first, among them and otherwise the nearest to one that is chosen."""
    pointers, sender = graph.receiver_pointers, graph.edge_index[0]
    here = graph.graph_of_node == graph.graph_of_node[sender[0]]
    free = here & (pointers.diff() > 0)  # nodes that have neighbours and are not chosen
    unseen = free.clone()  # those of them whose element is not there yet
    edges: list[Tensor] = []  # into the nodes that are chosen
    chosen = torch.zeros_like(free)

    def nearest(among: Tensor) -> list[int]:
        """The one of some nodes that is nearest to those that are chosen, if any is a neighbour."""
        near = torch.cat(edges) if edges else sender.new_empty(0)
        near = near[among[sender[near]]]
        return [int(sender[near[displacements(graph, near).norm(dim=1).argmin()]])] if len(near) else []

    while free.any() and len(edges) < MOST_ATOMS:
        among = unseen if unseen.any() else free
        if (
            edges and not chosen[sender[edges[-1]]].any()
        ):  # an atom that no chosen one sends to brings a neighbour of its own
            among = torch.zeros_like(free).index_fill(0, sender[edges[-1]], True)
        new = (nearest(among) or among.nonzero()[0].tolist())[0]
        into = torch.arange(int(pointers[new]), int(pointers[new + 1]))
        chosen[new] = True
        if sum(int(chosen[sender[each]].sum()) for each in [*edges, into]) > MOST_EDGES and len(edges) > 1:
            chosen[new] = False
            break
        edges.append(into)
        free[new] = False
        unseen &= graph.atomic_numbers != graph.atomic_numbers[new]
    return chosen.nonzero().squeeze(1)


def _evaluate(potential: Potential, graph: AtomicGraph, trained: bool) -> Values:
    """Energies of atoms in eV, forces in eV/Å, virial in eV if there is a volume, and second derivatives; float64, on the CPU."""
    volume = float(torch.linalg.det(graph.cell).abs()) if bool(graph.pbc.any()) else 0.0
    moving = [graph.positions.clone().requires_grad_(), graph.cell.clone().requires_grad_()]
    seen = graph if trained else copy.copy(graph).update({"positions": moving[0], "cell": moving[1]})
    with _differentiable(potential):
        output = potential(seen, stress=volume > 0)
    random = torch.Generator().manual_seed(1)
    scalar = torch.zeros((), dtype=torch.float64)
    values = {}
    for name, key, factor in ((FORCES, "forces", 1.0), (STRESS, "stress", volume)):
        if key in output:
            value = factor * output[key].double().cpu()
            scalar = scalar + (value * torch.randn(value.shape, generator=random, dtype=torch.float64)).sum()
            values[name] = value.detach()
    if trained:
        weights = {name: weight for name, weight in potential.named_parameters() if weight.requires_grad}
        gradients = torch.autograd.grad(scalar, list(weights.values()), allow_unused=True, materialize_grads=True)
        names = [f"gradient of forces in {name}" for name in weights]
    else:
        gradients = torch.autograd.grad(scalar, moving, allow_unused=True, materialize_grads=True)
        names = ["gradient of forces in positions", "gradient of forces in the cell"]
    if not potential.training:  # and once more as it will be called
        output = potential(graph, stress=volume > 0)
        values = {FORCES: output["forces"].double().cpu()}
        if volume > 0:
            values[STRESS] = volume * output["stress"].double().cpu()
    values[ENERGY] = output["node_energy"].detach().cpu()
    return values | {name: gradient.double().cpu() for name, gradient in zip(names, gradients)}


@contextmanager
def _differentiable(potential: Potential) -> Iterator[None]:
    """Let forces be differentiated, which the modules inside need not know: tables refuse to be trained."""
    before = potential.training
    potential.training = True
    try:
        yield
    finally:
        potential.training = before


def _sizes(twin: Potential, graph: AtomicGraph) -> dict[str, float]:
    """Sizes of the terms that energies, forces and virial are sums of, which rounding errors scale with."""
    vectors = displacements(graph).requires_grad_()
    energy = twin.node_energies(vectors, twin.species(graph.atomic_numbers), graph.edge_index)
    (gradients,) = torch.autograd.grad(energy.sum(), vectors)
    reference = twin.scale.reference[twin.species(graph.atomic_numbers)]
    of_atom = gradients.new_zeros(graph.num_nodes).index_add(0, graph.edge_index[0], 2 * gradients.square().sum(dim=1))
    virial = (gradients.norm(dim=1) * vectors.detach().norm(dim=1)).sum()  # edges of one length err in one direction
    sizes = {ENERGY: _rms(energy.detach() - reference), FORCES: float(of_atom.mean().sqrt()), STRESS: float(virial)}
    return {name: size or 1.0 for name, size in sizes.items()}


def _executors(potential: Potential) -> list[str]:
    """Class names of the executors in the order of the computation."""
    return [type(executor).__name__ for executor in potential.model.executors().values()]


def _is_reference(potential: Potential) -> bool:
    """True if the potential is its own reference, in float64 on the CPU."""
    if potential.device.type != "cpu" or potential.dtype != torch.float64:
        return False
    model = potential.model
    references = ((executor, model.reference_executor(path)) for path, executor in model.executors().items())
    return all(type(executor) is type(reference) for executor, reference in references if reference is not None)


def _key(potential: Potential, part: AtomicGraph) -> tuple[object, ...]:
    """All that decides which kernels run, and how."""
    elements = tuple(part.atomic_numbers.unique().tolist())
    trained = any(parameter.requires_grad for parameter in potential.parameters())
    numerics = (str(potential.device), potential.dtype, chosen(), torch.__version__)
    return (
        repr(potential.model.config),
        *(type(module).__name__ for module in potential.model.modules()),
        potential.elements,
        elements,
        trained,
        *numerics,
    )


def _complaint(potential: Potential, part: AtomicGraph, found: list[Difference]) -> str:
    device = potential.device
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    dtype = str(potential.dtype).removeprefix("torch.") + (
        "" if chosen() == "ieee" else f", matrix products in {chosen()}"
    )
    # Energies and forces first, then the gradients that are worst.
    worst = sorted(
        (each for each in found if not each.tolerable),
        key=lambda each: (each.quantity not in (ENERGY, FORCES, STRESS), -each.excess),
    )
    wrong = "; ".join(
        f"{each.quantity} off by {each.relative:.1e}, tolerance {each.tolerance:.0e}" for each in worst[:4]
    )
    more = f"; {len(worst) - 4} more" if len(worst) > 4 else ""
    return (
        f"this potential computes wrong numbers on {name} in {dtype}: compared with its formulas on {part.num_nodes} atoms and "
        f"{part.num_edges} edges of your input, {wrong}{more} (relative). It runs {', '.join(dict.fromkeys(_executors(potential)))} "
        f'with torch {torch.__version__}. Nothing has been computed with it. Take tensor products with `backend="torch"` or '
        '`backend="reference"`, or another device, and please report this message'
    )


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
