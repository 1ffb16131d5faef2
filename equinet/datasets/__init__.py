"""Frames, their labels, and the graphs made of them."""

if __name__ != "equinet.datasets":
    raise ImportError("import this folder as `equinet.datasets`")

from typing import TYPE_CHECKING

from equinet.lazy import lazy_names

if TYPE_CHECKING:
    from .conversion import convert
    from .frames import Labels, find_labels, labelled, source, with_labels
    from .isolated import is_isolated_atom, split_isolated
    from .keys import LabelKeys
    from .loader import GraphLoader, random_split, to_graph, to_graphs
    from .missing import require_labels
    from .properties import Property, register_property
    from .read import iter_frames, read_frames, read_structure
    from .sample import SAMPLE
    from .statistics import Statistics, measure, reference_energies
    from .units import Units, units_from_text
    from .writing import write_frames

__all__ = [
    "SAMPLE",
    "GraphLoader",
    "LabelKeys",
    "Labels",
    "Property",
    "Statistics",
    "Units",
    "convert",
    "find_labels",
    "is_isolated_atom",
    "iter_frames",
    "labelled",
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
    "units_from_text",
    "with_labels",
    "write_frames",
]

# So that the table of properties can be imported without ASE and torch.
_HOMES = {
    "properties": ("Property", "register_property"),
    "conversion": ("convert",),
    "frames": ("Labels", "find_labels", "labelled", "source", "with_labels"),
    "isolated": ("is_isolated_atom", "split_isolated"),
    "keys": ("LabelKeys",),
    "missing": ("require_labels",),
    "loader": ("GraphLoader", "random_split", "to_graph", "to_graphs"),
    "read": ("iter_frames", "read_frames", "read_structure"),
    "sample": ("SAMPLE",),
    "statistics": ("Statistics", "measure", "reference_energies"),
    "units": ("Units", "units_from_text"),
    "writing": ("write_frames",),
}
__getattr__ = lazy_names(__name__, {name: module for module, names in _HOMES.items() for name in names})
