"""Frames, their labels, and the graphs made of them."""

if __name__ != "equinet.datasets":
    raise ImportError("import this folder as `equinet.datasets`")

from .frames import (
    LabelKeys,
    Labels,
    find_labels,
    is_isolated_atom,
    read_frames,
    read_structure,
    require_labels,
    source,
    with_labels,
)
from .loader import GraphLoader, random_split, to_graph, to_graphs
from .sample import SAMPLE
from .statistics import Statistics, measure, reference_energies, split_isolated

__all__ = [
    "SAMPLE",
    "GraphLoader",
    "LabelKeys",
    "Labels",
    "Statistics",
    "find_labels",
    "is_isolated_atom",
    "measure",
    "random_split",
    "read_frames",
    "read_structure",
    "reference_energies",
    "require_labels",
    "source",
    "split_isolated",
    "to_graph",
    "to_graphs",
    "with_labels",
]
