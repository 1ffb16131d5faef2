"""Atomic structures as graphs: atoms are nodes, pairs within the cutoff are directed edges."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .atomic_graph import AtomicGraph, collate, displacements, edge_vectors, from_atoms
    from .verlet import VerletGraph

__all__ = ["AtomicGraph", "VerletGraph", "collate", "displacements", "edge_vectors", "from_atoms"]

# Names are looked up when first used, so that the elements can be imported without torch-geometric and vesin.
_HOMES = dict.fromkeys(__all__, "atomic_graph") | {"VerletGraph": "verlet"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
