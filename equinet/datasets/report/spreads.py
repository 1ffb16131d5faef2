"""Robust statistics: energies beside those of their composition, spreads that a few wrong numbers do not move."""

from __future__ import annotations

import numpy as np

from .survey import Floats, Survey


def composition_residuals(survey: Survey, energy: Floats) -> Floats:
    """Energy per atom beside a robust fit of one energy for each element, in eV, ``(frames,)``; NaN where there is none.

    The fit minimises the sum of absolute values over compositions, each with the median of its frames, so that a few wrong frames of
    a composition, and a few wrong compositions, do not move it.
    """
    usable = np.flatnonzero(survey.counted & np.isfinite(energy) & (survey.sizes > 0))
    residual = np.full(len(energy), np.nan)
    if not len(usable):
        return residual
    shares = survey.composition[usable] / survey.sizes[usable, None]
    values = energy[usable] / survey.sizes[usable]
    kinds, of, counts = np.unique(np.round(shares, 6), axis=0, return_inverse=True, return_counts=True)
    of = of.ravel()
    medians = values[np.lexsort((values, of))][np.cumsum(counts) - (counts + 1) // 2]
    weights = np.sqrt(counts.astype(np.float64))
    left = medians
    factors = np.ones(len(kinds))
    for _ in range(30):
        root = np.sqrt(weights * factors)
        solution = np.linalg.lstsq(kinds * root[:, None], medians * root, rcond=1e-10)[0]
        left = medians - kinds @ solution
        factors = 1 / np.maximum(np.abs(left), 1e-4)
    residual[usable] = values - (kinds @ solution)[of]
    return residual


def spread(values: Floats) -> float:
    """Robust standard deviation."""
    return 1.4826 * float(np.median(np.abs(values - np.median(values)))) if len(values) else np.nan
