"""Labels that no calculation gives which is of any use: beyond all bounds, or out of proportion to the other frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from .properties import PROPERTIES, Property

# A force of a training set is an outlier if it is this many times the median over the frames of their root mean square, and above
# FORCE_OF_COLLISIONS. Sets of relaxed structures have a tiny median beside which an ordinary force is large; nothing below a collision of
# atoms is refused. Hot and compressed frames stay within 100 times the median.
OUTLIER = 1e3
FORCE_OF_COLLISIONS = 100.0  # eV/Å

# Statistics of so few numbers are taken as they are: they have no tail to speak of.
FEWEST = 100
# How far beyond all but one per cent of the numbers the rest may lie; a normal distribution ends at 2.
TAIL = 10.0


def beyond_bounds(row: Property, value: NDArray[np.float64], atoms: int) -> str | None:
    """Reason why a label cannot be right, whatever the set is; None if it may be.

    Args:
        row: The property.
        value: Label of one frame.
        atoms: Number of atoms of the frame.
    """
    sizes = np.abs(value) / max(atoms, 1) if row.extensive else np.abs(value)
    if not sizes.size or sizes.max() <= row.largest:
        return None
    return _too_large(row, sizes, f"labels of more than {row.largest:g} {row.plot_unit}")


def outlier(frames: Sequence[Atoms]) -> tuple[Atoms, str] | None:
    """The first frame with a force out of all proportion to the others, and what is wrong with it; None if there is none.

    One such force decides the scale of a model, which never recovers.

    Args:
        frames: Frames whose labels are raw results of their calculators, as :func:`equinet.datasets.with_labels` makes them.
    """
    with_forces = [
        (atoms, atoms.calc.results["forces"]) for atoms in frames if len(atoms) and "forces" in atoms.calc.results
    ]
    if not with_forces:
        return None
    median = float(np.median([np.sqrt(np.mean(forces**2)) for _, forces in with_forces]))
    bound = max(OUTLIER * median, FORCE_OF_COLLISIONS)
    for atoms, forces in with_forces:
        if np.abs(forces).max() > bound:
            such = (
                f"in half of the {len(with_forces)} frames they are below {median:.3g} eV/Å (root mean square), and those of more "
                f"than {bound:.4g} eV/Å"
            )
            return atoms, _too_large(PROPERTIES["forces"], np.abs(forces), such)
    return None


def _too_large(row: Property, sizes: NDArray[np.float64], such: str) -> str:
    """The largest number of a label, and what becomes of such labels."""
    atom = f" of atom {int(np.argmax(sizes)) // max(sizes[0].size, 1)}" if row.per == "atom" else ""
    return (
        f"has {sizes.max():.6g} {row.plot_unit}{atom}; {such} come of another unit or of a calculation that went wrong. "
        "Remove the frame or compute it again"
    )


def without_tail(values: NDArray[np.float64], centre: float = 0.0) -> NDArray[np.float64]:
    """The same numbers, with those that lie far beyond nearly all others moved to :data:`TAIL` times where these end.

    A mean or mean square of the result is that of the numbers as they are unless a few of them are far out, which then count little.

    Args:
        values: Any numbers.
        centre: Number about which they lie.
    """
    if len(values) < FEWEST:
        return values
    away = values - centre
    limit = TAIL * float(np.quantile(np.abs(away), 0.99, method="lower"))
    return centre + np.clip(away, -limit, limit) if limit > 0 else values
