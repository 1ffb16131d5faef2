"""Units of formats that have none of their own: asked for, never guessed."""

from __future__ import annotations

import copy
import os

from equinet.datasets.keys import LabelKeys
from equinet.datasets.units import KNOWN, Units


def require_units(path: str | os.PathLike[str], form: str, keys: LabelKeys, *, hint: str = "") -> None:
    """Refuse a file whose format does not say its units, unless units are asked for.

    Args:
        path: The file.
        form: Name of the format.
        keys: Names and units of the labels.
        hint: Units that such files often have, for the message.

    Raises:
        ValueError: Names the file, the format and the setting.
    """
    if not keys.units.given:
        often = f" (often {hint})" if hint else ""
        raise ValueError(
            f'{path}: {form} does not say the units of its numbers{often}; set `data.units`, as in {{ energy = "eV", length = "Ang", forces = "eV/Ang" }}'
        )


def with_units(keys: LabelKeys, units: Units | None = None) -> LabelKeys:
    """The same names for a file that says its units itself, whatever units are asked for elsewhere.

    Args:
        keys: Names and units of the labels.
        units: Units that the file says; by default eV and Å with tension positive, which ASE's readers convert to.
    """
    own = copy.copy(keys)
    own.units, own.stress_sign = units or Units(), "tension" if units is None else keys.stress_sign
    return own


def said_units(path: str | os.PathLike[str], **said: str | None) -> Units:
    """Units as a file writes them: ``hartree/bohr``, ``Ang``, ``kcal/mol``, in capitals or not.

    Args:
        path: The file.
        said: Units of energy, length, forces and stress; None where the file does not say it.

    Raises:
        ValueError: If a unit is unknown; names the file.
    """
    found = {}
    for quantity, text in said.items():
        if text is not None:
            known = {name.lower(): name for name in KNOWN[quantity]}
            found[quantity] = known.get(text.replace(" ", "").lower(), text)
    try:
        return Units(**found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
