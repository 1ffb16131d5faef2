"""Labels beyond all bounds, whatever set they are in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .properties import Property


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
    return too_large(row, sizes, f"labels of more than {row.largest:g} {row.plot_unit}")


def too_large(row: Property, sizes: NDArray[np.float64], such: str) -> str:
    """The largest number of a label, and what becomes of such labels."""
    atom = f" of atom {int(np.argmax(sizes)) // max(sizes[0].size, 1)}" if row.per == "atom" else ""
    return (
        f"has {sizes.max():.6g} {row.plot_unit}{atom}; {such} come of another unit or of a calculation that went wrong. "
        "Remove the frame or compute it again"
    )
