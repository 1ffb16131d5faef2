"""The table of properties: labels of a data set, terms of a loss, predictions of a potential, one row each.

Label keys, graph labels, loss terms, errors, plots and calculator results follow from it. :func:`register_property` adds a row; what
predicts it is a model that names it in ``predicts`` (:mod:`equinet.models.base`).
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass
from typing import Literal

from equinet.quotes import quoted


@dataclass(frozen=True, kw_only=True)
class Property:
    """One property of structures or atoms.

    Attributes:
        name: Name in graphs, predictions, losses and results; by default also the key in files.
        per: Whose property it is.
        shape: Shape for one atom or one structure; () for a number.
        unit: Unit in files, graphs and predictions.
        symmetry: Behaviour under rotation and inversion, as irreps.
        symbol: Short symbol for column heads.
        shown_unit: Unit of errors in tables; of an extensive property per atom.
        factor: Number of shown units in one ``unit``.
        suffix: Shown unit in the keys of JSON files.
        loss_weight: Weight in the loss unless another is given.
        extensive: True if errors are those per atom, as of a total energy.
        from_references: True if references of isolated atoms are subtracted before values are compared or drawn.
        symmetric: True for a symmetric 3 x 3 tensor, which files may give in Voigt order xx, yy, zz, yz, xz, xy.
        needs_volume: True if it is defined for structures with a volume only.
        centred: True if the spread of labels is that about their mean, False if that about zero.
        largest: Largest size that a label can have, in ``unit``; of an extensive property per atom. Frames beyond are refused when read.

    Raises:
        ValueError: If ``symmetric`` is set and the shape is not 3 x 3.
    """

    name: str
    per: Literal["atom", "structure"]
    shape: tuple[int, ...]
    unit: str
    symmetry: str
    symbol: str
    shown_unit: str
    suffix: str
    factor: float = 1.0
    loss_weight: float = 0.0
    extensive: bool = False
    from_references: bool = False
    symmetric: bool = False
    needs_volume: bool = False
    centred: bool = True
    largest: float = math.inf

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise ValueError(f"`name` must be an identifier such as dipole, got {self.name!r}")
        if self.symmetric and self.shape != (3, 3):
            raise ValueError(f"`symmetric` is for tensors of shape (3, 3), and {self.name} has {self.shape}")

    @property
    def plot_unit(self) -> str:
        """Unit of the axes of a plot."""
        return f"{self.unit}/atom" if self.extensive else self.unit

    @property
    def label(self) -> str:
        """Name in plots."""
        return f"interaction {self.name}" if self.from_references else self.name


PROPERTIES: dict[str, Property] = {
    row.name: row
    for row in (
        Property(
            name="energy",
            per="structure",
            shape=(),
            unit="eV",
            symmetry="0e",
            symbol="E",
            shown_unit="meV/atom",
            factor=1e3,
            suffix="mev_per_atom",
            loss_weight=1.0,
            extensive=True,
            from_references=True,
            largest=2e6,  # an atom of the heaviest element with all its electrons has -1.5e6 eV
        ),
        Property(
            name="forces",
            per="atom",
            shape=(3,),
            unit="eV/Å",
            symmetry="1o",
            symbol="F",
            shown_unit="meV/Å",
            factor=1e3,
            suffix="mev_per_ang",
            loss_weight=100.0,
            centred=False,
            largest=1e4,  # two nuclei a third of an Ångström apart; no density functional is meant for it
        ),
        Property(
            name="stress",
            per="structure",
            shape=(3, 3),
            unit="eV/Å³",
            symmetry="0e+2e",
            symbol="σ",
            shown_unit="meV/Å³",
            factor=1e3,
            suffix="mev_per_ang3",
            symmetric=True,
            needs_volume=True,
            largest=1e3,  # 160,000 GPa, several hundred times the pressure in the centre of the Earth
        ),
    )
}
# Derivatives of the energy come with it; a potential predicts these without being asked.
BUILT_IN = tuple(PROPERTIES)


def register_property(row: Property) -> Property:
    """Add a property to the table.

    Args:
        row: The property.

    Returns:
        The same property.

    Raises:
        ValueError: If another property has the name already.

    >>> dipole = Property(name="dipole", per="structure", shape=(3,), unit="e Å", symmetry="1o", symbol="μ",
    ...                   shown_unit="me Å", factor=1e3, suffix="me_ang", centred=False)
    >>> register_property(dipole) is PROPERTIES.pop("dipole")
    True
    """
    if PROPERTIES.setdefault(row.name, row) != row:
        raise ValueError(f"there is a property {row.name!r} already, {PROPERTIES[row.name]}; choose another name")
    return row


def property_named(name: str) -> Property:
    """Find a property by its name.

    Raises:
        ValueError: If there is none; suggests the nearest.
    """
    if name not in PROPERTIES:
        near = difflib.get_close_matches(name, PROPERTIES, n=1)
        raise ValueError(
            f"there is no property {quoted(name)}{f'; did you mean {near[0]!r}?' if near else ''}; there are: {', '.join(PROPERTIES)}. "
            "Register one of your own with equinet.datasets.properties.register_property"
        )
    return PROPERTIES[name]


def is_label(key: str) -> bool:
    """True for the usual keys of labels: the name of a property, alone or after a prefix such as ``REF_`` or ``dft_``."""
    words = {*PROPERTIES, "energies", "free_energy", "force", "virial", "virials"}
    return any(key.lower() == word or key.lower().endswith(f"_{word}") for word in words)
