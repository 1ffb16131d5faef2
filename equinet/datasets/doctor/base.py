"""Findings about a data set, and the registry of the checks that make them."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from equinet.quotes import quoted

from ..report.survey import Ints, Survey, survey
from .cells import cell_scale, fractional_frames
from .pairs import Pairs, near_pairs
from .surrogate import PairPotential, fit_pair_potential

Severity: TypeAlias = Literal["refuse", "warn"]
FEW = 3  # frames that a finding names


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong with a data set, or may be.

    Attributes:
        name: Name by which ``data.accept`` lets it pass.
        severity: ``"refuse"`` for what cannot be right, ``"warn"`` for what may be meant.
        number: Sentence with the number that gives it away.
        looks_like: Explanation that fits best.
        remedy: Setting or action that makes it right.
        frames: File and number of the first frames it concerns; empty if it concerns the whole set.
        count: Number of frames it concerns.
    """

    name: str
    severity: Severity
    number: str
    looks_like: str
    remedy: str
    frames: tuple[str, ...] = ()
    count: int = 0

    def sentence(self) -> str:
        """The finding in one paragraph."""
        more = f" and {self.count - len(self.frames)} more" if self.count > len(self.frames) else ""
        where = f" ({'; '.join(self.frames)}{more})" if self.frames else ""
        return f"{self.name}: {self.number}{where}; {self.looks_like}. {self.remedy}"

    def as_json(self) -> dict[str, Any]:
        """The finding as plain values."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Case:
    """A data set under examination.

    Attributes:
        survey: Labels, distances and fingerprints of all frames.
        e0s: Energies of isolated atoms in eV by atomic number that are to be used instead of those of isolated-atom frames.
        notes: Results that several checks share.
    """

    survey: Survey
    e0s: Mapping[int, float] | None = None
    notes: dict[str, object] = field(default_factory=dict)

    @cached_property
    def pairs(self) -> Pairs:
        """Work of forces and stress along pairs of near frames."""
        return near_pairs(self.survey)

    @cached_property
    def pair_potential(self) -> PairPotential | None:
        """Pair potential fitted to some of the forces; None if there are too few."""
        return fit_pair_potential(self.survey)

    @cached_property
    def fractional(self) -> Ints:
        """Frames whose positions seem to be fractions of the cell."""
        return fractional_frames(self.survey)

    @cached_property
    def cell_scale(self) -> float:
        """Factor between units that the cells lack to fit the positions; 0 if there is none."""
        return 0.0 if len(self.fractional) else cell_scale(self.survey)

    @property
    def cells_fit(self) -> bool:
        """True if positions and cells seem to be in one unit."""
        return not len(self.fractional) and not self.cell_scale

    def find(
        self,
        name: str,
        severity: Severity,
        number: str,
        looks_like: str,
        remedy: str,
        frames: NDArray[Any] | Sequence[int] = (),
    ) -> list[Finding]:
        """A list with one finding, its frames named by file and number."""
        numbers = np.asarray(frames, dtype=np.int64)
        places = tuple(self.survey.where(int(n)) for n in numbers[:FEW])
        return [
            Finding(
                name=name,
                severity=severity,
                number=number,
                looks_like=looks_like,
                remedy=remedy,
                frames=places,
                count=len(numbers),
            )
        ]


Check: TypeAlias = Callable[[Case], list[Finding]]
CHECKS: list[Check] = []
NAMES: dict[str, str] = {}  # of findings, and what each says, in the order in which they are looked for


def check(**names: str) -> Callable[[Check], Check]:
    """Register a check with the findings that it can make, ``forces_sign="forces are gradients"``."""

    def register(function: Check) -> Check:
        CHECKS.append(function)
        NAMES.update({name.replace("_", "-"): words for name, words in names.items()})
        return function

    return register


def diagnose(
    parts: Mapping[str, Iterable[Atoms]] | Survey,
    *,
    e0s: Mapping[int, float] | None = None,
) -> list[Finding]:
    """Judge a data set: units, signs, outliers, duplicates, and what else cannot be right.

    Args:
        parts: Labelled frames, as :func:`equinet.datasets.read_frames` gives them, by part: train, valid and test where there are
            such, any names otherwise. Or the survey of them.
        e0s: Energies of isolated atoms in eV by atomic number; by default those of the isolated-atom frames among the others.

    Returns:
        Findings, those that refuse the data first.

    Raises:
        ValueError: If there are no frames.
    """
    case = Case(parts if isinstance(parts, Survey) else survey(parts), e0s)
    with np.errstate(all="ignore"):
        found = [finding for each in CHECKS for finding in each(case)]
    return sorted(found, key=lambda finding: finding.severity != "refuse")


def require_names(accept: Sequence[str]) -> None:
    """Refuse names of findings that there are not.

    Raises:
        ValueError: Names the nearest known one.
    """
    for name in accept:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"there is no finding {quoted(name)}{meant}; there are: {', '.join(NAMES)}")


def require_sound(findings: Sequence[Finding], accept: Sequence[str] = ()) -> None:
    """Refuse data with a finding that refuses them and is not accepted by name.

    Raises:
        ValueError: Says what was found, what it looks like, and the remedy, for each finding.
    """
    refused = [finding for finding in findings if finding.severity == "refuse" and finding.name not in accept]
    if refused:
        names = ", ".join(f'"{name}"' for name in dict.fromkeys(finding.name for finding in refused))
        raise ValueError(
            "the data cannot be right:\n"
            + "\n".join(f"- {finding.sentence()}" for finding in refused)
            + f"\nIf this is meant, set `data.accept = [{names}]`"
        )
