"""Atomic numbers of the symbols in files; isotopes of hydrogen, and words on ghost atoms and labels."""

from __future__ import annotations

import re

from equinet.graph.elements import SYMBOLS
from equinet.quotes import quoted

NUMBERS = {symbol: number for number, symbol in enumerate(SYMBOLS) if number}
# Hydrogen of mass 2 and 3, in amu: AME2020, Wang et al., Chinese Physics C 45, 030003 (2021).
ISOTOPES = {"D": 2.014, "T": 3.016}
GHOSTS = {"x", "xx", "gh", "bq", "q", "du", "vac", "ghost", "dummy"}
LABELLED = re.compile(r"([A-Za-z]{1,2})[-_]?[0-9(+*'].*", re.ASCII)


def atomic_number(symbol: str) -> int:
    """Atomic number of a symbol; 1 for D and T.

    Raises:
        ValueError: If no element has it, with what was probably meant.
    """
    if (number := NUMBERS.get(symbol)) is not None:
        return number
    if symbol in ISOTOPES:
        return 1
    raise ValueError(f"{quoted(symbol)} is no symbol of an element: {_meant(symbol)}")


def _meant(symbol: str) -> str:
    if symbol.lower().split("-")[0].split("_")[0] in GHOSTS:
        return "ghost atoms and vacancies have no place in a potential; remove the atom"
    if symbol.isascii() and symbol.lstrip("+-").isdigit():
        return "for atomic numbers name the column `Z:I:1` in `Properties`"
    if symbol.capitalize() in NUMBERS:
        return f"write {symbol.capitalize()} if that is meant"
    if (label := LABELLED.fullmatch(symbol)) and label[1].capitalize() in NUMBERS:
        return f"a label of an atom? Write {label[1].capitalize()}, and keep labels in a column of their own"
    return "correct or remove the atom"


def is_ghost(symbol: str) -> bool:
    """True for the usual symbols of ghost atoms."""
    return symbol.lower().split("-")[0].split("_")[0] in GHOSTS
