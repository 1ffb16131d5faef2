"""Symmetric tensors as files hold them: six numbers in Voigt order, or nine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SHAPES: list[tuple[int, ...]] = [(6,), (9,), (3, 3)]
# Noise of a tensor that should be symmetric: a part of its largest number, or 0.5 MPa, a hundredth of what plane-wave codes converge.
RELATIVE_NOISE = 1e-4
NOISE_OF_STRESS = 3e-6  # eV/Å³


def full_tensor(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 3 x 3 form of a symmetric tensor, averaged over its two triangles where they differ by noise.

    Args:
        value: Six numbers in Voigt order xx, yy, zz, yz, xz, xy, or nine, or 3 x 3; of a stress in eV/Å³.

    Raises:
        ValueError: If the two triangles differ by more than noise.
    """
    if value.shape == (6,):
        xx, yy, zz, yz, xz, xy = value
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    full = value.reshape(3, 3)
    if np.abs(full - full.T).max() > max(RELATIVE_NOISE * np.abs(full).max(), NOISE_OF_STRESS):
        raise ValueError(f"is not symmetric: {full.tolist()}")
    return (full + full.T) / 2


def voigt(full: NDArray[np.float64]) -> NDArray[np.float64]:
    """The six numbers xx, yy, zz, yz, xz, xy of a symmetric 3 x 3 tensor."""
    return full.ravel()[[0, 4, 8, 5, 2, 1]]
