"""Names, units, signs and weights of the labels in a file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Literal

from .properties import property_named
from .units import Units

SIGNS = {"tension": 1.0, "compression": -1.0}


class LabelKeys:
    """Names under which a file holds its labels, and their units; a property that is not named has its own name.

    Args:
        weight: Weight of the frame in the loss; 1 where a frame does not have it. Weights of single terms have the name of the property
            in it: of ``weight`` ``energy_weight``, ``forces_weight``, ...; of ``config_weight`` ``config_energy_weight``, ..., as in MACE.
            "" to ignore all weights.
        virial: Virial W, in the unit of energy, six numbers in Voigt order or nine; the stress is -W / volume. "" if there is none.
        config_type: Kind of the frame, a word.
        type_weights: Factors of the weight by kind of frame; other kinds have 1.
        units: Units of positions, cells, energies, forces, stresses and virials.
        optional: Properties whose labels are left out, and not refused, if they are larger than any can be: nothing is made of them.
        stress_sign: ``"tension"`` if a positive stress pulls the cell together, as everywhere in equinet and ASE; ``"compression"`` if it is
            a pressure, as VASP prints.
        keys: Names by property, see :mod:`equinet.datasets.properties`: ``energy``, ``forces``, ``stress`` (six numbers in Voigt order
            xx yy zz yz xz xy, or 3 x 3) and every registered one, which is in the unit of the table. "" for labels to ignore.

    Attributes:
        weight, virial, config_type, optional: As given.
        units: As given.
        stress_sign: As given.
        type_weights: As given.

    Raises:
        ValueError: If there is no such property or sign, or a stress is called a virial.
    """

    def __init__(
        self,
        *,
        weight: str = "weight",
        virial: str = "",
        config_type: str = "config_type",
        type_weights: Mapping[str, float] = MappingProxyType({}),
        units: Units = Units(),  # noqa: B008, frozen
        stress_sign: Literal["tension", "compression"] = "tension",
        optional: Collection[str] = (),
        **keys: str,
    ) -> None:
        for name in keys:
            property_named(name)
        if stress_sign not in SIGNS:
            raise ValueError(f'`stress_sign` must be "tension" or "compression", got {stress_sign!r}')
        if "virial" in keys.get("stress", "").lower() and "stress" not in keys["stress"].lower():
            raise ValueError(
                f"`{keys['stress']}` is the name of a virial, and a stress is -virial / volume; leave `data.stress_key` out and set "
                f'`data.virial_key = "{keys["stress"]}"`'
            )
        self.weight, self.virial, self.config_type = weight, virial, config_type
        self.type_weights, self.units, self.stress_sign = dict(type_weights), units, stress_sign
        self.optional = tuple(optional)
        self._keys = keys
        self._none = False

    @classmethod
    def none(cls) -> LabelKeys:
        """Keys of a reader that ignores all labels."""
        keys = cls(weight="")
        keys._none = True
        return keys

    def of(self, name: str) -> str:
        """Name in the file of a property."""
        return "" if self._none else self._keys.get(name, name)

    def weight_of(self, name: str) -> str:
        """Name in the file of the weight of one term.

        >>> LabelKeys(weight="config_weight").weight_of("forces")
        'config_forces_weight'
        """
        if not self.weight:
            return ""
        stem = self.weight.removesuffix("weight")
        return f"{stem}{name}_weight" if stem != self.weight else f"{name}_{self.weight}"

    def factor(self, name: str) -> float:
        """Number that turns a value in the file into one in the unit and with the sign of the table of properties."""
        sign = SIGNS[self.stress_sign] if name == "stress" else 1.0
        return sign * self.units.factor(name)


OWN_NAMES = LabelKeys()
