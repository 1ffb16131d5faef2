"""Examination of the data of a run before anything is made of them: refused, or told in a few lines."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from equinet.datasets.doctor import diagnose, require_sound
from equinet.datasets.report import brief, report, survey
from equinet.graph.elements import SYMBOLS
from equinet.tables import Block, Text

from .config import DataConfig

if TYPE_CHECKING:
    from ase import Atoms


def examine(
    data: DataConfig, terms: Collection[str], parts: Mapping[str, Sequence[Atoms]], isolated: Sequence[Atoms]
) -> tuple[Block, ...]:
    """Judge the frames of a run and return the lines to show before the first step.

    Findings about labels that the loss gives no weight are told, and refuse nothing.

    Args:
        data: Names of the labels, reference energies, and the findings to accept.
        terms: Names of the properties that the loss weighs.
        parts: Frames by part.
        isolated: Isolated-atom frames that were set apart from the training frames.

    Raises:
        ValueError: If a finding refuses the data and is not accepted; says what it looks like and the remedy.
    """
    apart = [] if data.e0s == "least_squares" else isolated  # then their energies decide nothing
    found = survey({part: [*apart, *frames] if part == "train" else frames for part, frames in parts.items()})
    findings = [
        finding if _label_of(finding.name) in (None, *terms) else replace(finding, severity="warn")
        for finding in diagnose(found, e0s=e0s_by_number(data))
    ]
    require_sound(findings, data.accept)
    said: list[Block] = list(brief(report(found, keys=data.label_keys())))
    for finding in findings:
        if finding.name in ("duplicates", "overlap"):  # told by the report
            continue
        word = "accepted    " if finding.name in data.accept and finding.severity == "refuse" else "perhaps     "
        said.append(Text(word + finding.sentence(), "warning"))
    return tuple(said)


def _label_of(name: str) -> str | None:
    """The label that a finding is about, by the finding's name; None if it is about structures or several labels.

    >>> [_label_of(name) for name in ("stress-sign", "constrained-forces", "energies-equal", "close-atoms")]
    ['stress', 'forces', 'energy', None]
    """
    words = {
        "stress": "stress",
        "force": "forces",
        "forces": "forces",
        "energy": "energy",
        "energies": "energy",
        "e0s": "energy",
    }
    return next((words[word] for word in name.split("-") if word in words), None)


def e0s_by_number(data: DataConfig) -> dict[int, float] | None:
    """The table of reference energies of a configuration by atomic number, in eV; None if there is none."""
    if isinstance(data.e0s, str):
        return None
    return {SYMBOLS.index(symbol): energy for symbol, energy in data.e0s.items() if symbol in SYMBOLS}
