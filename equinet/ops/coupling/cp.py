"""Canonical polyadic (CP) factors of a coupling tensor: any bilinear map as a few pointwise products."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from e3nn import o3
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from equinet.ops.cache import cached
from equinet.ops.progress import building

from .pairings import dense_tensor, uniform

Array = NDArray[np.float64]

# Random starts; the best is kept, and the first exact one ends the search.
STARTS = 6
# Fewer, at least one, where terms times entries of the tensor are many: from degree 5 on, a start takes ten seconds and more.
WORK_OF_STARTS = 25_000_000
# Sweeps of alternating least squares from a random start. Many of them run into the saddles of small tensors.
SWEEPS, SWEEP_PENALTY = 10, 1e-2
# Levenberg-Marquardt steps after them: at most so many, under a penalty that falls by a factor with each. The tensor is
# scaled so that its rows have norms of about one; a first penalty of 0.1 would switch terms off for good.
STEPS, PENALTY, PENALTY_FALL = 300, 1e-3, 0.8
# Conjugate-gradient iterations within a step, and its damping: first and least.
INNER, DAMPING, DAMPING_FLOOR = 50, 1e-2, 1e-12
# Below the first error a solution is taken to be exact and the penalty is dropped; below the second the search ends.
NEARLY_EXACT, EXACT = 1e-5, 1e-13
# A start is given up when its error falls by less than this fraction in so many steps.
STAGNATION, PATIENCE = 1e-2, 20
# Largest sum of the norms of the terms, in norms of the tensor. Exact factors need 2 to 10; below the exact rank
# the norms of cancelling terms may grow without bound for a vanishing gain.
NORM_CAP = 100.0

OTHERS = ((1, 2), (0, 2), (0, 1))  # for each axis the two others


@dataclass(frozen=True, eq=False)
class CPFactors:
    r"""Factors of the three axes of a tensor, and how well they give it back.

    .. math:: \hat T_{ijk} = \sum_{r=1}^{R} \mathrm{left}_{ri}\, \mathrm{right}_{rj}\, \mathrm{out}_{rk}

    The three vectors of each term have equal norms; the arrays are read-only.

    Attributes:
        left: ``(rank, d1)``, float64.
        right: ``(rank, d2)``, float64.
        out: ``(rank, d3)``, float64.
        error: :math:`\|\hat T - T\| / \|T\|` in the Frobenius norm.
    """

    left: Array
    right: Array
    out: Array
    error: float

    def tensor(self) -> Array:
        """The tensor that the factors give, ``(d1, d2, d3)``."""
        return np.einsum("ri,rj,rk->ijk", self.left, self.right, self.out, optimize=True)


def coupling_tensor(irreps1: o3.Irreps | str, irreps2: o3.Irreps | str, irreps_out: o3.Irreps | str) -> Array:
    """All couplings of one copy of each irrep in one tensor: unit Frobenius norm per path, zero where O(3) allows none.

    ``"0e+1e+2e"`` three times gives the tensor of Tensor Decomposition Networks, with the 15 paths of SO(3) up to
    degree 2; the natural parities ``"0e+1o+2e"`` leave the 11 of them with even l1 + l2 + l3.

    Args:
        irreps1, irreps2: Irreps of the two inputs; multiplicities are ignored.
        irreps_out: Irreps of the output, likewise.

    Returns:
        ``(d1, d2, d3)``, float64; its squared norm is the number of paths.

    Source:
        Lin et al., Tensor Decomposition Networks, arXiv 2507.01131: path weights are outside the decomposed tensor.
    """
    return dense_tensor(o3.Irreps(irreps1), o3.Irreps(irreps2), o3.Irreps(irreps_out), uniform).numpy()


def cp_factors(tensor: ArrayLike, rank: int, *, seed: int = 0) -> CPFactors:
    r"""The best CP approximation of ``tensor`` by ``rank`` terms that a short search finds.

    .. math:: \min_{A, B, C} \tfrac12 \Big\| \sum_r a_r \otimes b_r \otimes c_r - T \Big\|^2
        + \tfrac{\lambda}{2} \big( \|A\|^2 + \|B\|^2 + \|C\|^2 \big), \quad \lambda \to 0

    Alternating least squares from random starts; then damped Gauss-Newton (Levenberg-Marquardt) steps, to machine
    precision where the rank allows. The falling penalty and a cap of 100 :math:`\|T\|` on the sum of the norms of the
    terms keep out huge cancelling terms, which would amplify rounding.

    The search is local: a larger rank usually, not provably, errs less. The same tensor, rank and seed give the same
    factors on one machine; to have them on another store the factors, not the seed. Results are kept in memory and in the
    cache of :mod:`equinet.ops.cache`.

    Equivariance is as good as the approximation: for an equivariant T, any rotation D and any x, y,
    :math:`\| \hat T(D x, D y) - D \hat T(x, y) \| \le 2 \|x\| \|y\| \|\hat T - T\|`.

    Args:
        tensor: ``(d1, d2, d3)``, for instance of :func:`coupling_tensor`.
        rank: Number of terms. Unit-weight couplings of degrees 0..L are exact from 8, 30, 90 for L = 1, 2, 3.
        seed: Seed of the random starts.

    Raises:
        ValueError: If ``rank`` is below one, or ``tensor`` is not a finite array of three axes with a non-zero entry.

    Source:
        Alternating least squares: Carroll and Chang, Psychometrika 35, 283 (1970); Kolda and Bader, SIAM Review 51, 455
        (2009), sec. 3.4. Damped Gauss-Newton: Phan, Tichavsky and Cichocki, SIAM J. Matrix Anal. Appl. 34, 126 (2013).
        Couplings and the bound: Lin et al., Tensor Decomposition Networks, arXiv 2507.01131.
    """
    array = np.asarray(tensor, dtype=np.float64)
    if rank < 1:
        raise ValueError(f"`rank` is the number of terms and must be at least 1, but it is {rank}; raise it")
    if array.ndim != 3:
        raise ValueError(
            f"`tensor` must have three axes (input, input, output), but its shape is {array.shape}; reshape it"
        )
    if bad := np.count_nonzero(~np.isfinite(array)):
        raise ValueError(f"`tensor` must be finite, but {bad} of its {array.size} entries are not; check their source")
    if not array.any():
        raise ValueError(f"`tensor` of shape {array.shape} is zero; do the parities of its irreps allow any path?")
    return _cp_factors(array.tobytes(), array.shape, rank, seed)


@cache
def _cp_factors(data: bytes, shape: tuple[int, ...], rank: int, seed: int) -> CPFactors:
    arguments = {"tensor": hashlib.sha256(data).hexdigest(), "shape": shape, "rank": rank, "seed": seed}
    with building(f"the CP decomposition of a {' x '.join(map(str, shape))} tensor into {rank} terms"):
        found = cached("cp_factors", arguments, lambda: _found_factors(data, shape, rank, seed))
    left, right, out, error = (found[name].numpy() for name in ("left", "right", "out", "error"))
    for factor in (left, right, out):
        factor.flags.writeable = False  # they are shared by all who ask for them
    return CPFactors(left, right, out, float(error))


def _found_factors(data: bytes, shape: tuple[int, ...], rank: int, seed: int) -> dict[str, Tensor]:
    tensor = np.frombuffer(data, dtype=np.float64).reshape(shape)
    unit = float(np.linalg.norm(tensor)) / math.prod(shape) ** (1 / 6)
    tensor = tensor / unit
    random = np.random.RandomState(seed)
    best, error = list[Array](), math.inf
    for _ in range(max(1, min(STARTS, WORK_OF_STARTS // (rank * tensor.size)))):
        factors = [random.standard_normal((size, rank)) / math.sqrt(size) for size in shape]
        factors = _levenberg_marquardt(tensor, _alternate(tensor, factors))
        found = float(np.linalg.norm(_residual(tensor, factors)) / np.linalg.norm(tensor))
        if found < error:
            best, error = factors, found
        if error < EXACT:
            break
    scaled = (torch.from_numpy(np.ascontiguousarray(factor.T) * math.cbrt(unit)) for factor in best)
    return dict(zip(("left", "right", "out"), scaled), error=torch.tensor(error, dtype=torch.float64))


def _alternate(tensor: Array, factors: list[Array]) -> list[Array]:
    """Alternating least squares: each factor in turn minimises the penalised error while the others stand still."""
    ridge = SWEEP_PENALTY * np.eye(factors[0].shape[1])
    for _ in range(SWEEPS):
        for n, (p, q) in enumerate(OTHERS):
            gram = (factors[p].T @ factors[p]) * (factors[q].T @ factors[q])
            factors[n] = np.asarray(np.linalg.solve(gram + ridge, _project(tensor, factors, n).T).T, dtype=np.float64)
    return factors


def _levenberg_marquardt(tensor: Array, factors: list[Array]) -> list[Array]:
    """Damped Gauss-Newton steps on all factors at once, under a falling penalty, up to the cap on the norms."""
    norm = float(np.linalg.norm(tensor))
    penalty, damping, history = PENALTY, DAMPING, [1.0]
    factors = _balanced(factors)
    residual = _residual(tensor, factors)
    loss = _half_square([residual])
    for step in range(STEPS):
        gradient = [_project(residual, factors, n) + penalty * u for n, u in enumerate(factors)]
        before = loss + penalty * _half_square(factors)
        for _ in range(8):
            most = INNER if penalty else 4 * INNER
            change = _solve(factors, gradient, penalty + damping, min(1e-2, history[-1]), most)
            moved = [u + v for u, v in zip(factors, change)]
            residual = _residual(tensor, moved)
            after = _half_square([residual]) + penalty * _half_square(moved)
            promised = damping * _half_square(change) - 0.5 * _dot(gradient, change)
            gain = (before - after) / max(promised, 1e-300)
            if gain > 1e-4:
                break
            damping *= 4
        else:
            break  # no step helps: a minimum, to rounding
        damping = max(damping / 3, DAMPING_FLOOR) if gain > 0.75 else damping * (2 if gain < 0.25 else 1)
        moved = _balanced(moved)
        if (np.linalg.norm(moved[0], axis=0) ** 3).sum() > NORM_CAP * norm:
            break
        factors, loss = moved, _half_square([residual])
        history.append(math.sqrt(2 * loss) / norm)
        penalty = 0.0 if history[-1] < NEARLY_EXACT else penalty * PENALTY_FALL
        stagnant = step > PATIENCE and history[-1] > (1 - STAGNATION) * history[-1 - PATIENCE]
        if history[-1] < 0.1 * EXACT or stagnant:
            break
    return factors


def _solve(factors: list[Array], gradient: list[Array], damping: float, accuracy: float, most: int) -> list[Array]:
    r"""Solve :math:`(J^T J + \mathrm{damping})\, \delta = -g` by conjugate gradients, preconditioned by diagonal blocks."""
    # J is never formed: the blocks of its Gram matrix are products of the R x R Gram matrices of the factors.
    grams = [u.T @ u for u in factors]
    blocks = [grams[p] * grams[q] + damping * np.eye(len(grams[0])) for p, q in OTHERS]
    inverses = [np.linalg.inv(block) for block in blocks]

    def times(v: list[Array]) -> list[Array]:
        m = [w.T @ u for u, w in zip(factors, v)]
        return [v[n] @ blocks[n] + factors[n] @ (m[p] * grams[q] + m[q] * grams[p]) for n, (p, q) in enumerate(OTHERS)]

    solution = [np.zeros_like(u) for u in factors]
    remainder = [-g for g in gradient]
    direction = [r @ inverse for r, inverse in zip(remainder, inverses)]
    size = first = _dot(remainder, direction)
    for _ in range(most):
        image = times(direction)
        length = size / max(_dot(direction, image), 1e-300)
        solution = [x + length * p for x, p in zip(solution, direction)]
        remainder = [r - length * a for r, a in zip(remainder, image)]
        conditioned = [r @ inverse for r, inverse in zip(remainder, inverses)]
        last, size = size, _dot(remainder, conditioned)
        if size <= first * max(accuracy, 1e-8) ** 2:
            break
        direction = [z + size / last * p for z, p in zip(conditioned, direction)]
    return solution


def _project(tensor: Array, factors: list[Array], n: int) -> Array:
    """``tensor`` with the factors of the two other axes on it, ``(d_n, rank)``."""
    first, second = (factors[m] for m in OTHERS[n])
    pairs = (first[:, None] * second[None]).reshape(-1, first.shape[1])
    return np.moveaxis(tensor, n, 0).reshape(tensor.shape[n], -1) @ pairs


def _residual(tensor: Array, factors: list[Array]) -> Array:
    first, second, third = factors
    return ((first[:, None] * second[None]).reshape(-1, first.shape[1]) @ third.T).reshape(tensor.shape) - tensor


def _balanced(factors: list[Array]) -> list[Array]:
    """The same terms with their norm shared equally by the three factors; a term that is zero in one is zero in all."""
    norms = [np.linalg.norm(u, axis=0) for u in factors]
    common = np.cbrt(norms[0] * norms[1] * norms[2])
    return [u * (common / np.where(norm > 0, norm, 1.0)) for u, norm in zip(factors, norms)]


def _dot(first: list[Array], second: list[Array]) -> float:
    return float(sum(np.vdot(a, b) for a, b in zip(first, second)))


def _half_square(arrays: list[Array]) -> float:
    return 0.5 * _dot(arrays, arrays)
