r"""Molecular dynamics of small systems: a step that never changes shape, recorded once and replayed on a GPU.

A step of a hundred atoms is a few hundred short kernels, and a GPU waits for Python to start each of them. A CUDA graph starts them
all at once, if sizes and addresses stay as they were. They do when the step takes all pairs of a Verlet list, those between the
cutoff and the cutoff plus skin too: the envelope makes energy and forces of such a pair exactly zero. A few more pairs that are as
far apart fill the list up to a round number, so that the next list rarely needs another recording.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from equinet.graph.atomic_graph import AtomicGraph, displacements
from equinet.graph.verlet import Candidates
from equinet.nn.prediction import Prediction
from equinet.ops import SpeciesGroups
from equinet.ops.edges import Edges, Incoming
from equinet.potential import Potential, only_energies

if TYPE_CHECKING:
    from ase import Atoms

Floats = NDArray[np.float64]

RESULTS = ("energy", "node_energy", "forces", "stress")

# Runs before a recording, in which libraries and caches set themselves up.
WARM_UP = 3

# The smallest list, and how much longer than needed one may become before it is made anew.
FEWEST, WASTE = 32, 1.25


class StaticStep:
    """Energies, forces and stress of a structure, time and again as its atoms move.

    On a GPU a step is one copy there, one CUDA graph and one copy back; it is recorded anew when atoms come or go or are of other
    elements, and when the number of pairs leaves its bucket. On a CPU the same step runs as it is, without a gain. Results are those
    of :class:`equinet.Potential` to rounding, as sums run over more terms; two atoms on one spot give NaN.

    Args:
        potential: Potential in eval mode, on the device to compute on. Its weights must not change afterwards.
        skin: Margin in Å by which the list reaches beyond the cutoff; see :class:`equinet.graph.verlet.VerletGraph`.

    Raises:
        ValueError: If the potential is in training mode, ``skin`` is not a number of Å, or what the model computes does not end
            at the cutoff; says why.

    Attributes:
        searches, recordings: Numbers of neighbour searches and of recorded steps.
    """

    def __init__(self, potential: Potential, skin: float = 0.5) -> None:
        if potential.training:
            raise ValueError("the potential is in training mode; call `.eval()`")
        if not 0 <= skin < np.inf:
            raise ValueError(f"`skin` must be 0 or more Å (0.3 to 1 is usual), got {skin}")
        if reason := potential.model.reaches_beyond_cutoff or only_energies(potential):
            raise ValueError(f"a step of this potential cannot be made static: {reason}")
        self.potential, self.skin = potential, float(skin)
        self.searches = self.recordings = 0
        self._numbers = np.empty(0, dtype=np.int64)
        self._candidates: Candidates | None = None
        self._slots: Slots | None = None
        self._run: Callable[[], Tensor] | None = None

    def __call__(self, atoms: Atoms, *, stress: bool = False) -> Prediction:
        """As :meth:`equinet.Potential.forward` of the graph of ``atoms``, on the CPU, in float64.

        Raises:
            ValueError: If there are no atoms, the model does not know an element, two atoms are on one spot when neighbours are
                searched for, a number is not finite, or a periodic cell has no volume.
            MemoryError: If so long a cutoff would not fit into memory.
        """
        positions, cell = np.array(atoms.positions, dtype=np.float64), np.array(atoms.cell[:], dtype=np.float64)
        self._prepare(positions, cell, np.array(atoms.pbc, dtype=bool), np.asarray(atoms.numbers, dtype=np.int64))
        assert self._slots is not None
        assert self._run is not None
        self._slots.move(positions, cell)
        found = self._run().cpu()
        sizes = [1, len(positions), 3 * len(positions), 9]
        energy, node_energy, forces, tension = found.split(sizes)
        return Prediction(energy, node_energy, forces.view(-1, 3), tension.view(1, 3, 3) if stress else None)

    def _prepare(self, positions: Floats, cell: Floats, pbc: NDArray[np.bool_], numbers: NDArray[np.int64]) -> None:
        """See that list and recording are of these atoms."""
        potential, known, slots = self.potential, self._candidates, self._slots
        same = np.array_equal(numbers, self._numbers)
        if same and known is not None and known.cover(positions, cell, pbc, potential.cutoff):
            return
        if not len(numbers):
            raise ValueError("there are no atoms")
        known = Candidates(positions, cell, pbc, potential.cutoff + self.skin)
        self.searches += 1
        rows = len(known.pairs) if potential.model.directed else len(known.sender)
        if slots is None or not same or not slots.suits(rows):
            slots = Slots(potential, numbers, capacity_for(rows))
            self._run = None
        slots.load(known, pbc)
        if self._run is None:
            slots.move(positions, cell)
            self._run = recorded(slots.compute, potential.device)
            self.recordings += 1
        self._candidates, self._slots, self._numbers = known, slots, numbers.copy()


class Slots:
    """Memory of one structure at fixed addresses, and the step that reads it.

    Args:
        potential: Potential to compute with.
        numbers: ``(atoms,)``, atomic numbers.
        rows: Number of pairs there is room for; single directions, if the model asks for them.
    """

    def __init__(self, potential: Potential, numbers: NDArray[np.int64], rows: int) -> None:
        device, atoms = potential.device, len(numbers)
        self.potential, self.rows = potential, rows
        self.mirrored = not potential.model.directed
        edges = 2 * rows if self.mirrored else rows
        self.host = torch.zeros(atoms + 3, 3, dtype=torch.float64, pin_memory=device.type == "cuda")
        self.moving = torch.zeros(atoms + 3, 3, dtype=torch.float64, device=device)
        self.beyond = torch.zeros(rows, 3, dtype=torch.float64, device=device)
        counts = {"pointers": atoms + 1, "senders": edges, "codes": edges}
        self.incoming = Incoming(**{key: torch.zeros(n, dtype=torch.int64, device=device) for key, n in counts.items()})
        self.graph = AtomicGraph(
            positions=self.moving[:atoms],
            cell=self.moving[atoms:].unsqueeze(0),
            atomic_numbers=torch.tensor(numbers, device=device),
            edge_index=torch.zeros(2, rows, dtype=torch.int64, device=device),
            unit_shifts=torch.zeros(rows, 3, dtype=torch.float64, device=device),
            pbc=torch.zeros(1, 3, dtype=torch.bool, device=device),
        )
        self.groups = potential.groups(self.graph.atomic_numbers)

    def suits(self, rows: int) -> bool:
        """True if so many pairs fit without leaving too much room."""
        return rows <= self.rows <= max(FEWEST, WASTE * rows)

    def load(self, known: Candidates, pbc: NDArray[np.bool_]) -> None:
        """Take in the pairs of a list, and fill up with an atom and itself, two cutoffs away, atom after atom."""
        ends, shifts = (known.sender, known.receiver), known.pair_shifts
        if not self.mirrored:
            ends, shifts = (known.senders, known.receivers), known.unit_shifts
        atoms, rows = self.graph.num_nodes, len(shifts)
        filler = np.arange(self.rows - rows) % atoms
        index = torch.from_numpy(np.stack([np.concatenate([end, filler]) for end in ends]))
        edges = Edges(index, atoms, mirrored=self.mirrored)
        self.graph.edge_index.copy_(index)
        self.graph.unit_shifts.zero_()[:rows].copy_(torch.from_numpy(shifts))
        self.beyond.zero_()[rows:, 0] = 2 * self.potential.cutoff
        for ours, now in zip(self.incoming, edges.incoming):
            ours.copy_(now)
        self.graph.pbc.copy_(torch.from_numpy(pbc))

    def move(self, positions: Floats, cell: Floats) -> None:
        """Take in positions and cell."""
        self.host.copy_(torch.from_numpy(np.concatenate([positions, cell])))
        self.moving.copy_(self.host, non_blocking=True)

    def compute(self) -> Float[Tensor, " numbers"]:
        """Energy, energies of atoms, forces and stress, one after the other."""
        return static_step(self.potential, self.graph, self.groups, self.incoming, self.beyond)


def static_step(
    potential: Potential, graph: AtomicGraph, groups: SpeciesGroups, incoming: Incoming, beyond: Float[Tensor, "rows 3"]
) -> Float[Tensor, " numbers"]:
    """One step, with no look at any number: energy, energies of atoms, forces and stress in float64, one after the other.

    Args:
        potential: Potential in eval mode.
        graph: One structure; its ``edge_index`` has each pair once, or both directions if the model asks for them.
        groups: Result of ``potential.groups`` for its atoms.
        incoming: Its edges by receiver.
        beyond: Offset added to each vector, in Å.
    """
    # Made here, so that what is derived from edges is part of the recording.
    edges = Edges.ready(graph.edge_index, incoming, graph.num_nodes, mirrored=not potential.model.directed)
    vectors = (displacements(graph) + beyond).to(potential.dtype)
    found = potential.derive(
        lambda vectors: potential.node_values(vectors, groups, edges), vectors, edges, graph, stress=True
    )
    return torch.cat([found[name].double().flatten() for name in RESULTS])


def capacity_for(rows: int) -> int:
    """The next round number: each is a twentieth above the one before."""
    capacity = FEWEST
    while capacity < rows:
        capacity += capacity // 20 + 1
    return capacity


def recorded(compute: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """A function that does what ``compute`` does: on a GPU by a CUDA graph, into the same memory every time."""
    if device.type != "cuda":
        return compute
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                compute()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=aside):
            result = compute()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
