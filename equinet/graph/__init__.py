"""Atomic structures as graphs: atoms are nodes, pairs within the cutoff are directed edges."""

from typing import TYPE_CHECKING

from equinet.lazy import lazy_names

if TYPE_CHECKING:
    from .atomic_graph import AtomicGraph, collate, displacements, edge_vectors, from_atoms
    from .verlet import VerletGraph

__all__ = ["AtomicGraph", "VerletGraph", "collate", "displacements", "edge_vectors", "from_atoms"]

# So that the elements can be imported without torch and vesin.
__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "atomic_graph") | {"VerletGraph": "verlet"})
