"""Frames, their labels, and the graphs made of them."""

if __name__ != "equinet.datasets":
    raise ImportError("import this folder as `equinet.datasets`")

from typing import TYPE_CHECKING

from equinet.lazy import lazy_names

if TYPE_CHECKING:
    from .frames import (
        LabelKeys,
        Labels,
        find_labels,
        is_isolated_atom,
        require_labels,
        source,
        with_labels,
    )
    from .loader import GraphLoader, random_split, to_graph, to_graphs
    from .properties import Property, register_property
    from .reading import read_frames, read_structure
    from .sample import SAMPLE
    from .statistics import Statistics, measure, reference_energies, split_isolated

__all__ = [
    "SAMPLE",
    "GraphLoader",
    "LabelKeys",
    "Labels",
    "Property",
    "Statistics",
    "find_labels",
    "is_isolated_atom",
    "measure",
    "random_split",
    "read_frames",
    "read_structure",
    "reference_energies",
    "register_property",
    "require_labels",
    "source",
    "split_isolated",
    "to_graph",
    "to_graphs",
    "with_labels",
]

# So that the table of properties can be imported without ASE and torch.
_HOMES = {
    "properties": ("Property", "register_property"),
    "frames": (
        "LabelKeys",
        "Labels",
        "find_labels",
        "is_isolated_atom",
        "require_labels",
        "source",
        "with_labels",
    ),
    "loader": ("GraphLoader", "random_split", "to_graph", "to_graphs"),
    "reading": ("read_frames", "read_structure"),
    "sample": ("SAMPLE",),
    "statistics": ("Statistics", "measure", "reference_energies", "split_isolated"),
}
__getattr__ = lazy_names(__name__, {name: module for module, names in _HOMES.items() for name in names})
