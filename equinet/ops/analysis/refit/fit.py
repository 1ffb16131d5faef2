"""Weights of a many-body product that come as near as they can to given coefficients."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equinet.ops.factorised.powers import JoinedManyBody, PowerManyBody
from equinet.ops.kernels.node.reference import PolynomialTables
from equinet.ops.protocols import ManyBody

from .basis import CHUNK, SAMPLES, Basis, random_features

STARTS = 12
STEPS = 120  # and four times as many towards an exact solution
PATIENCE = 6  # steps without progress
# Squared errors and the penalty on output weights, relative to the square of the target. The penalty keeps weights from
# growing and cancelling where a sum of products has no best approximation; float32 could not hold them. It moves the best
# factors a little, so that problems that seem to have an exact solution are then solved without it.
PENALTY = 1e-6
PROMISING = 1e-3
EXACT = 1e-18
RIDGE = 1e-12  # for matrices without full rank
STALLED = 1e-6  # relative decrease of the squared error in a step that counts as none
NEGLIGIBLE = 1e-9  # of coefficients of unit size found by least squares: rounding


def weights_for(
    executor: ManyBody, target: Float[Tensor, "species columns channels"], seed: int = 0
) -> Float[Tensor, "species weights channels"]:
    r"""Weights by which ``executor`` computes, as nearly as it can, the polynomials with coefficients ``target``.

    Exact couplings take the coefficients. A power product computes sums of products of factors, one for each irrep, times
    output weights. For every species and channel by itself the mean square of the difference of the products is made
    smallest, for independent features of unit variance. Given the factors this is linear in the output weights (variable
    projection); the factors are found by Levenberg and Marquardt's method from several random starts, all species and
    channels at once. A minimum need not be the lowest there is.

    Args:
        executor: Executor in float64, on the CPU.
        target: Coefficients on :class:`Basis`.
        seed: Decides the starts.

    Raises:
        ValueError: If the executor is of a kind that nobody taught to be fitted.

    Source:
        Golub and Pereyra 1973, SIAM J. Numer. Anal. 10, 413; Kaufman 1975, BIT 15, 49.
    """
    if isinstance(executor, PolynomialTables):
        return target.clone()
    if not isinstance(executor, (PowerManyBody, JoinedManyBody)):
        raise ValueError(f"there is no way to find weights for a {type(executor).__name__}; train it anew instead")
    family = _Family(executor)
    species, _, channels = target.shape
    flat = target.double().transpose(1, 2).flatten(0, 1)  # (problems, columns)
    found = [family.fit(part, seed) for part in flat.split(CHUNK)]
    return torch.cat(found).unflatten(0, (species, channels)).transpose(1, 2).contiguous()


class _Term:
    """Products of nu factors into one output: monomials of the factors and their polynomials."""

    def __init__(self, rows: slice, variables: Tensor, table: Tensor, count: int) -> None:
        self.rows, self.variables, self.table = rows, variables, table
        one_hot = torch.nn.functional.one_hot(variables, count).double()  # (monomials, nu, factors)
        self.gradients = [torch.einsum("mn,nv->nmv", table, one_hot[:, j]) for j in range(variables.shape[1])]

    def values(self, factors: Float[Tensor, "problems copies factors"]) -> Float[Tensor, "problems rows copies"]:
        return (factors[..., self.variables].prod(-1) @ self.table.T).transpose(1, 2)

    def gradient(self, factors: Tensor, weight: Float[Tensor, "problems copies"]) -> Tensor:
        """Derivative of the weighted values with respect to the factors, ``(problems, rows, copies, factors)``."""
        picked = factors[..., self.variables]
        total = factors.new_zeros(len(factors), len(self.table), *factors.shape[1:])
        for j, gradients in enumerate(self.gradients):
            others = [picked[..., i] for i in range(picked.shape[-1]) if i != j]
            rest = weight.unsqueeze(2) * torch.stack(others).prod(0)
            total += torch.einsum("brn,nmv->bmrv", rest, gradients)
        return total


class _Part:
    """One power product, and where its weights lie among all."""

    def __init__(self, executor: PowerManyBody, before: int, basis: Basis, metric: list[Tensor]) -> None:
        self.copies, self.inputs, self.modulations = executor.rank, len(basis.spec.irreps_in), executor.modulations
        self.count = self.modulations * self.inputs
        first = before + len(executor.linear)
        width = self.count + len(executor.terms)
        self.factor_columns = [first + r * width + n for r in range(self.copies) for n in range(self.count)]
        self.weight_columns = [
            [first + r * width + self.count + t for r in range(self.copies)] for t in range(len(executor.terms))
        ]
        self.terms = list(self._terms(executor, basis, metric))

    def _terms(self, executor: PowerManyBody, basis: Basis, metric: list[Tensor]) -> Iterator[_Term]:
        """Every product of the chain, as a linear map of monomials of its factors, from its values at random ones."""
        variables = {}
        for nu in {nu for nu, _ in executor.terms}:
            free = nu - self.modulations + 1
            later = [(*row,) for row in itertools.combinations_with_replacement(range(self.inputs), free)]
            if self.modulations == 2:
                later = [(i, *(self.inputs + j for j in row)) for i in range(self.inputs) for row in later]
            variables[nu] = torch.tensor(later)
        draws = max(2 * len(rows) + 10 for rows in variables.values())
        factors = random_features(2, draws, self.modulations, self.inputs)
        x = random_features(3, SAMPLES, basis.dim)
        tables, dims = basis.values(x), [out.dim for _, out in basis.spec.irreps_out]
        found: dict[tuple[int, int], list[Tensor]] = {term: [] for term in executor.terms}
        for part in factors.split(CHUNK // 8):
            u, v = (x.unsqueeze(2) * part[:, n][:, executor.irrep_of_row].T for n in (0, -1))
            products = executor.chain.products(u, v, basis.spec.correlation)
            blocks = [product.split(dims, dim=1) for product in products]
            for nu, k in executor.terms:
                inside = basis.columns.get((k, nu), slice(0, 0))
                table = tables[k][:, inside.start - basis.outputs[k].start : inside.stop - basis.outputs[k].start]
                found[nu, k].append(torch.linalg.lstsq(table, blocks[nu - 2][k].flatten(0, 1)).solution)
        scale = executor.column_scale[-len(executor.terms) :]
        for n, (nu, k) in enumerate(executor.terms):
            known = factors.flatten(1)[:, variables[nu]].prod(2)
            table = torch.linalg.lstsq(known, scale[n] * torch.cat(found[nu, k], dim=1).T).solution.T
            table = torch.where(table.abs() > NEGLIGIBLE, table, 0.0)  # (polynomials, monomials)
            inside, outer = basis.columns[k, nu], basis.outputs[k]
            columns = slice(inside.start - outer.start, inside.stop - outer.start)
            yield _Term(outer, variables[nu], metric[k][:, columns] @ table, self.count)


class _Family:
    """All products that an executor can make, by the metric: an error is the length of a difference of vectors."""

    def __init__(self, executor: PowerManyBody | JoinedManyBody) -> None:
        self.basis = Basis(executor.spec)
        self.metric = self.basis.metric()
        self.numel, self.size = executor.weight_numel, len(self.basis.labels)
        parts = executor.executors if isinstance(executor, JoinedManyBody) else [executor]
        before = [sum(part.weight_numel for part in parts[:n]) for n in range(len(parts))]
        self.parts = [_Part(part, start, self.basis, self.metric) for part, start in zip(parts, before) if part.terms]
        self.linear = torch.zeros(self.size, len(executor.linear), dtype=torch.float64)
        for n, k in enumerate(executor.linear):
            self.linear[self.basis.outputs[k], n] = self.metric[k][
                :, self.basis.columns[k, 1].start - self.basis.outputs[k].start
            ]

    def fit(self, target: Float[Tensor, "problems columns"], seed: int) -> Float[Tensor, "problems weights"]:
        blocks = [target[:, part] @ r.T for part, r in zip(self.basis.outputs, self.metric)]
        size = torch.cat(blocks, dim=1).norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
        y = torch.cat(blocks, dim=1) / size
        draw = np.random.RandomState(seed)
        best_factors, best = self._start(draw, len(y), 0), torch.full((len(y),), torch.inf, dtype=torch.float64)
        for n in range(STARTS):
            (open_,) = (best > EXACT).nonzero(as_tuple=True)
            factors = self._start(draw, len(y), n)  # drawn for all, so that none depends on the fate of others
            if len(open_) == 0 or (n > 0 and factors.shape[1] == 0):
                break
            found, error = self._descend(factors[open_], y[open_], PENALTY)
            (near,) = (error < PROMISING).nonzero(as_tuple=True)
            exact, rest = self._descend(found[near], y[open_[near]], 0.0)
            near, exact, rest = (value[rest < EXACT] for value in (near, exact, rest))
            found[near], error[near] = exact, rest
            better = error < (1 - STALLED) * best[open_]  # of equals the first, whatever rounding says
            best[open_[better]] = error[better]
            best_factors[open_[better]] = found[better]
        result = y.new_zeros(len(y), self.numel)
        penalties = torch.where(best < EXACT, 0.0, PENALTY)
        output = size * self._state(best_factors, y, penalties)[1]
        result[:, : self.linear.shape[1]] = output[:, : self.linear.shape[1]]
        result[:, [c for part in self.parts for c in part.factor_columns]] = best_factors
        result[:, [c for part in self.parts for row in part.weight_columns for c in row]] = output[
            :, self.linear.shape[1] :
        ]
        return result

    def _start(self, draw: np.random.RandomState, problems: int, n: int) -> Float[Tensor, "problems factors"]:
        """Factors around one, as in a fresh model, then of either sign."""
        width = sum(part.copies * part.count for part in self.parts)
        noise = torch.from_numpy(draw.standard_normal((problems, width)))
        return self._unit(1 + 0.5 * noise if n % 2 == 0 else noise)

    def _unit(self, factors: Tensor) -> Tensor:
        """The factors of every product brought to a mean square of one; output weights make up for it."""
        blocks = factors.split([part.copies * part.count for part in self.parts], dim=1)
        scaled = [factors[:, :0]]
        for part, block in zip(self.parts, blocks):
            rows = block.unflatten(1, (-1, part.inputs))
            scaled.append((rows * (part.inputs**0.5 / rows.norm(dim=2, keepdim=True).clamp(min=1e-6))).flatten(1))
        return torch.cat(scaled, dim=1)

    def _by_part(self, factors: Tensor) -> Iterator[tuple[_Part, Tensor]]:
        blocks = factors.split([part.copies * part.count for part in self.parts], dim=1)
        return ((part, block.unflatten(1, (part.copies, part.count))) for part, block in zip(self.parts, blocks))

    def _values(self, factors: Tensor) -> Float[Tensor, "problems rows outputs"]:
        """Values that each output weight multiplies."""
        columns = [self.linear.expand(len(factors), -1, -1)]
        for part, block in self._by_part(factors):
            for term in part.terms:
                column = block.new_zeros(len(block), self.size, part.copies)
                column[:, term.rows] = term.values(block)
                columns.append(column)
        return torch.cat(columns, dim=2)

    def _gradients(self, factors: Tensor, output: Tensor) -> Float[Tensor, "problems rows factors"]:
        found, before = [], self.linear.shape[1]
        for part, block in self._by_part(factors):
            gradient = block.new_zeros(len(block), self.size, part.copies, part.count)
            for term in part.terms:
                gradient[:, term.rows] += term.gradient(block, output[:, before : before + part.copies])
                before += part.copies
            found.append(gradient.flatten(2))
        return torch.cat(found, dim=2)

    def _state(self, factors: Tensor, y: Tensor, penalty: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Regressors, best output weights, residual of ``y``, and squared error with penalty."""
        values = self._values(factors)
        ridge = penalty.clamp(min=RIDGE)[:, None, None] * torch.eye(values.shape[2], dtype=values.dtype)
        chol = torch.linalg.cholesky(values.mT @ values + ridge)
        output = values.new_zeros(len(values), values.shape[2], 1)
        for _ in range(3 if bool((penalty == 0).any()) else 1):  # again and again, the ridge is felt less and less
            gradient = values.mT @ (y.unsqueeze(2) - values @ output) - penalty[:, None, None] * output
            output = output + torch.cholesky_solve(gradient, chol)
        output = output.squeeze(2)
        rest = y - (values @ output.unsqueeze(2)).squeeze(2)
        return values, output, rest, rest.square().sum(1) + penalty * output.square().sum(1)

    def _descend(self, factors: Tensor, y: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Levenberg and Marquardt's method in the factors, output weights following; factors and squared errors."""
        factors, width = factors.clone(), factors.shape[1]
        penalty = torch.full((len(y),), strength, dtype=torch.float64)
        cost = self._state(factors, y, penalty)[3]
        damping, idle = torch.full_like(cost, 1e-2), torch.zeros(len(y), dtype=torch.int64)
        for _ in range((STEPS if strength else 4 * STEPS) if width else 0):
            (on,) = ((idle < PATIENCE) & (cost > EXACT / 100)).nonzero(as_tuple=True)
            if len(on) == 0:
                break
            values, output, rest, _ = self._state(factors[on], y[on], penalty[on])
            jacobian = torch.cat([self._gradients(factors[on], output), values], dim=2)
            normal = jacobian.mT @ jacobian
            extra = torch.full_like(normal[:, 0], max(strength, RIDGE))
            extra[:, :width] = damping[on, None] * normal.diagonal(dim1=1, dim2=2)[:, :width] + RIDGE
            gradient = (jacobian.mT @ rest.unsqueeze(2)).squeeze(2)
            gradient[:, width:] -= strength * output
            chol, failed = torch.linalg.cholesky_ex(normal + torch.diag_embed(extra))
            step = torch.cholesky_solve(gradient.unsqueeze(2), chol).squeeze(2)[:, :width]
            step = torch.where((failed == 0).unsqueeze(1) & step.isfinite(), step, 0.0)
            trial = self._unit(factors[on] + step)
            found = self._state(trial, y[on], penalty[on])[3]
            better = found < cost[on]
            idle[on] = torch.where(found > (1 - STALLED) * cost[on], idle[on] + 1, 0)
            damping[on] = torch.where(better, damping[on] / 4, damping[on] * 6).clamp(1e-14, 1e6)
            factors[on[better]], cost[on[better]] = trial[better], found[better]
        return factors, self._state(factors, y, penalty)[2].square().sum(1)
