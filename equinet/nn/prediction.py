"""Results of a potential: values per node, and the prediction of energies, forces and stress."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor


class NodeValues(NamedTuple):
    """Per-node values in physical units.

    Attributes:
        energy: ``(nodes,)`` eV, float64.
        properties: Further properties that the model predicts, ``(nodes, ...)`` each.
    """

    energy: Tensor
    properties: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Prediction(Mapping[str, Tensor]):
    """Energies, forces and further properties of one or several structures.

    A property can also be had by its name, ``prediction["forces"]``, as code that runs through the table of properties does.

    Attributes:
        energy: ``(graphs,)`` eV, float64.
        node_energy: ``(nodes,)`` eV, float64; their sums are the energies.
        forces: ``(nodes, 3)`` eV/Å.
        stress: ``(graphs, 3, 3)`` eV/Å³, tension positive, NaN for a structure without a periodic direction; None if not asked for.
        properties: Further properties that the model predicts, ``(nodes, ...)`` or ``(graphs, ...)``.
    """

    energy: Tensor
    node_energy: Tensor
    forces: Tensor
    stress: Tensor | None = None
    properties: Mapping[str, Tensor] = field(default_factory=dict)

    def __iter__(self) -> Iterator[str]:
        """Names of everything that is predicted."""
        names = ("energy", "node_energy", "forces", *(["stress"] if self.stress is not None else []))
        return iter((*names, *self.properties))

    def __len__(self) -> int:
        return len(tuple(iter(self)))

    def __getitem__(self, name: str) -> Tensor:
        if name not in tuple(iter(self)):
            raise KeyError(f"{name!r} is not predicted; there are: {', '.join(self)}")
        value: Tensor = self.properties[name] if name in self.properties else getattr(self, name)
        return value
