"""A calculator that says what is wrong where ASE's own would go on and fail later, or do nothing."""

from __future__ import annotations

from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator


class RefusingCalculator(Calculator):
    """Base of calculators whose arguments are chosen once, and which know nothing without atoms."""

    def set(self, **parameters: Any) -> dict[str, Any]:
        """Refuse changes; ASE's own method would keep them and change nothing.

        Args:
            parameters: Anything; none is accepted.

        Raises:
            ValueError: If there is any; says to make a new calculator.
        """
        if parameters:
            given = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
            raise ValueError(
                f"what a calculator computes with is chosen when it is made, and `set` cannot change it; make a new one: "
                f"{type(self).__name__}(model, {given})"
            )
        return {}

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """One property of ``atoms``, or without them of the last structure, as ASE's own method.

        Raises:
            ValueError: If there are no atoms, and have not been any.
        """
        if atoms is None:
            require_atoms(self.atoms)
        return super().get_property(name, atoms, allow_calculation)


def require_atoms(atoms: Atoms | None) -> None:
    """Refuse a calculation without atoms.

    Raises:
        ValueError: If ``atoms`` is None.
    """
    if atoms is None:
        raise ValueError(
            "this calculator has no atoms yet; set `atoms.calc = calculator` and ask the atoms, or pass them: "
            "`calculator.get_potential_energy(atoms)`"
        )
