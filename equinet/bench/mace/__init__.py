"""The parity matrix: every form of MACE beside mace-torch, from its file, with errors, limits and the ratio of times."""

from .cases import AXES, Case, every_case, extras, pairwise, select
from .errors import LIMITS, QUANTITIES, Outcome, errors_of
from .report import LEGEND, Record, about, markdown, terminal, write
from .run import Cell, Settings, compare_case, compare_file
from .structures import read_structures

__all__ = [
    "AXES",
    "LEGEND",
    "LIMITS",
    "QUANTITIES",
    "Case",
    "Cell",
    "Outcome",
    "Record",
    "Settings",
    "about",
    "compare_case",
    "compare_file",
    "errors_of",
    "every_case",
    "extras",
    "markdown",
    "pairwise",
    "read_structures",
    "select",
    "terminal",
    "write",
]
