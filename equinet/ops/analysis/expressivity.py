r"""Expressivity of a method, measured on its executor.

Source:
    Xie et al. 2025, arXiv 2506.13523 ("The Price of Freedom"): expressivity and interactability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from equinet.ops.coupling.counts import count_covariants, count_terms
from equinet.ops.coupling.polynomials import covariants, monomials
from equinet.ops.coupling.quadrature import smallest_rule
from equinet.ops.factorised.convolution import FactorisedConvolution, JoinedConvolution
from equinet.ops.factorised.pair import FactorisedPair, JoinedPair
from equinet.ops.layout import is_true, with_channels
from equinet.ops.methods.bracket import Bracket
from equinet.ops.methods.clebsch_gordan import ClebschGordan
from equinet.ops.methods.cp import CPDecomposed
from equinet.ops.methods.gaunt import GauntFourier, GauntGrid
from equinet.ops.methods.matrix import MatrixProduct
from equinet.ops.methods.registry import method_from_config, method_to_config, methods_of_others, needed_arguments
from equinet.ops.methods.roles import executor_of, refusal
from equinet.ops.methods.so2 import SO2
from equinet.ops.protocols import Convolution, Method, Pair
from equinet.ops.spec import ManyBodySpec, TensorProductSpec, highest_degree
from equinet.ops.species import SpeciesGroups

from .cost import cost
from .equivariance import equivariance_error, tensor_error
from .explanation import Comparison, Explanation, Part

# Singular values below this fraction of the largest, with columns of equal norm, count as zero. Rounding leaves 1e-15,
# random points of the families here more than 1e-6.
RANK_TOLERANCE = 1e-10
# A path whose coefficient is below this is not there. Outputs have unit variance; rounding leaves 1e-16.
NO_PATH = 1e-9
# Terms of polynomials up to which it is measured how many of these a method reaches: their tables grow to some hundred MB.
MOST_TERMS = 20_000
# Up to this degree factors of a CP decomposition are found within seconds.
QUICK_CP_DEGREE = 3


def explain(spec: TensorProductSpec | ManyBodySpec, method: Method | str | Mapping[str, Any]) -> Explanation:
    r"""Measure the expressivity, cost and equivariance error of ``method`` for ``spec``.

    For a product of two inputs: which **paths** it reaches, that is, whether some weights give them a coefficient that is
    not zero (interactability), with the strength of each; and its **expressivity**, the dimension of

    .. math:: \{ \mathrm{Lin}_Z \circ T_w \circ (\mathrm{Lin}_X, \mathrm{Lin}_Y) \}

    with equivariant linear maps, that is one number per irrep, and all weights w. The maps before are those of the layer, the
    same for all copies of a factorised product; every copy of an output has one after it of its own. In the coefficients of the
    paths p it is the rank of

    .. math:: \partial f_p / \partial (w, a, b, c), \qquad
              f_p = a_{i_1(p)} \, b_{i_2(p)} \sum_s c_s \; \mathrm{path\_weights}(w)_{s p}

    at a random point, the same on every machine. For a many-body product it is the rank of the derivative of the
    coefficients on all equivariant polynomials (:mod:`equinet.ops.coupling.polynomials`) with respect to the weights of one species and
    channel; coefficients come from the executor's values at random features, by least squares.

    The **equivariance error** is the mean of :math:`\|T(D x, D y) - D\,T(x, y)\| / \|D\,T(x, y)\|` over random rotations, half of
    them with an inversion, and random inputs; where the second input may be the harmonics of one direction, it is that.
    Costs are counted by the rule of :mod:`equinet.ops.analysis.cost`.

    Args:
        spec: The product. A method that refuses it, as paths are missing, is explained all the same.
        method: A method, or what a configuration says for it.

    Raises:
        ValueError: If there is no such method, or there are too many polynomials to count; says how many.

    >>> found = explain(TensorProductSpec("0e+1e", "0e+1e", "0e+1e+2e"), GauntGrid())
    >>> found.reached, found.full, found.expressivity
    (5, 6, 5)
    """
    method = method_from_config(method)
    executor: Any = None
    why_not = refusal(method, spec)
    try:
        executor = executor_of(method, spec)
        executor = executor.double() if getattr(executor, "copies", True) else None  # no copies: it reaches no output
    except ValueError as error:
        why_not = why_not or str(error)
    errors: dict[str, float] = {}
    approximation = None
    if isinstance(spec, ManyBodySpec):
        parts, expressivity = _polynomials_reached(spec, None if executor is None else method)
        alone = expressivity
    else:
        parts, expressivity, alone = _paths_reached(spec, executor)
    if executor is not None and any(part.reached for part in parts):
        approximation = tensor_error(executor)
        for dtype in (torch.float64, torch.float32):
            errors[str(dtype).removeprefix("torch.")] = equivariance_error(executor.to(dtype), spec, dtype)
    return Explanation(
        method=label(method),
        spec=str(spec),
        many_body=isinstance(spec, ManyBodySpec),
        pair=isinstance(spec, TensorProductSpec) and bool(spec.pair),
        refusal=why_not,
        executor=None if executor is None else type(executor).__name__,
        parts=parts,
        expressivity=expressivity,
        weights=0 if executor is None else executor.weight_numel,
        weights_dimension=alone,
        cost=None if executor is None else cost(executor),
        equivariance_error=errors,
        tensor_error=approximation,
    )


def compare(spec: TensorProductSpec | ManyBodySpec, methods: Sequence[Method] | None = None) -> Comparison:
    """Several methods side by side, by default :func:`usual_methods`."""
    notes = []
    if methods is None:
        methods = usual_methods(spec)
        if not any(isinstance(method, CPDecomposed) for method in methods):
            notes.append(
                f"cp: left out, as finding factors takes minutes from degree {QUICK_CP_DEGREE + 1} on; ask for it by name."
            )
    return Comparison([explain(spec, method) for method in methods], notes)


def usual_methods(spec: TensorProductSpec | ManyBodySpec) -> list[Method]:
    """Every method once, the Gaunt grid also with the bracket, and every product of other people that needs no arguments.

    CP has as many terms as the Gaunt grid has points, and twice as many if there are paths with odd l1 + l2 + l3. It is left
    out from degree 4 on, where finding factors takes minutes.
    """
    methods: list[Method] = [
        ClebschGordan(),
        GauntGrid(),
        GauntGrid(bracket=True),
        GauntFourier(),
        Bracket(),
        MatrixProduct(),
    ]
    if (highest := highest_degree(spec)) <= QUICK_CP_DEGREE:
        if isinstance(spec, ManyBodySpec):
            odd = not all(is_true(ir) for _, ir in spec.irreps_in + spec.irreps_out)
            degree = 2 * highest + spec.irreps_in.lmax
        else:
            ends = [(spec.irreps_in1[path.i1].ir.l, spec.irreps_in2[path.i2].ir.l, path.out.l) for path in spec.paths]
            odd = any(sum(degrees) % 2 for degrees in ends)
            degree = sum(max(degrees) for degrees in zip(*ends))
        methods.append(CPDecomposed(rank=len(smallest_rule(degree).points) * (2 if odd else 1)))
    others = [kind() for kind in methods_of_others().values() if not needed_arguments(kind)]
    return [*methods, SO2(), *others]


def label(method: Method) -> str:
    """A method in one word, with the arguments that are not the default ones: ``cp:rank=24,weights=shared``."""
    config = method_to_config(method)
    if isinstance(config, str):
        return config
    given = ",".join(key if value is True else f"{key}={value}" for key, value in config.items() if key != "method")
    return f"{config['method']}:{given}"


# Products of two inputs


class _OfPair:
    """A pair product as a convolution whose slots are its outputs, one copy of each."""

    def __init__(self, executor: Any) -> None:
        self.executor: Pair = executor.double()
        self.spec, self.weight_numel, self.copies = executor.spec, executor.weight_numel, executor.spec.copies
        slots = [[float(path.out == out) for path in self.spec.paths] for out in self.copies]
        self.slots = torch.tensor(slots, dtype=torch.float64).unsqueeze(2)

    def path_weights(self, weight: Tensor) -> Float[Tensor, "edges slots paths channels"]:
        return self.slots * self.executor.path_weights(weight).unsqueeze(1)

    def strengths(self) -> Float[Tensor, " paths"]:
        """Root of the mean square of each path's weight, for independent weights by which the result has unit variance."""
        found: Any = self.executor
        parts = found.executors if isinstance(found, JoinedPair) else [found]
        if not isinstance(parts[0], FactorisedPair):
            # It asks for `path_weights` alone, which this has as a convolution does.
            jacobian = _jacobian_of_weights(self, _points(self.weight_numel))  # type: ignore[arg-type]
            return (jacobian.square().sum(1) * found.initial_scale[:, None] ** 2).sum(0).sqrt()
        return torch.stack([part.strengths() * part.rank**0.5 for part in parts]).square().sum(0).sqrt()


def _paths_reached(spec: TensorProductSpec, executor: Any) -> tuple[tuple[Part, ...], int, int]:
    """Paths, the dimension with linear maps around, and without."""
    strengths = torch.zeros(len(spec.paths)) if executor is None else _strengths(executor)
    parts = []
    for path, strength in zip(spec.paths, strengths.tolist()):
        name = f"{spec.irreps_in1[path.i1].ir} x {spec.irreps_in2[path.i2].ir} -> {path.out}"
        there = abs(strength) > NO_PATH
        parts.append(Part(name, str(path.out), int(there), 1, strength if there else 0.0))
    if executor is None:
        return tuple(parts), 0, 0
    leaves = _leaves(executor)
    jacobians = [_jacobian_with_maps(leaf, seed) for seed, leaf in enumerate(leaves, start=1)]
    before = torch.stack([first for first, _ in jacobians]).sum(0)  # the maps before are common to all
    with_maps = torch.cat([before, *(own for _, own in jacobians)], dim=1)
    # The slots of different leaves are different, so that their ranks add.
    alone = sum(_rank(_jacobian_of_weights(leaf, _points(leaf.weight_numel)).flatten(1).T) for leaf in leaves)
    return tuple(parts), _rank(with_maps), alone


def _leaves(executor: Any) -> list[Any]:
    """The executors that are no mere composition, in float64; of a reference form those of which it is the twin."""
    if executor.spec.pair:
        return [_OfPair(getattr(executor, "like", None) or executor)]
    found: Any = getattr(executor.path_weights, "__self__", executor)
    if not isinstance(found, JoinedConvolution):
        return [found.double()]
    parts: Any = found.parts
    return [leaf for part in parts for leaf in _leaves(part)]


def _strengths(executor: Any) -> Float[Tensor, " paths"]:
    """Strength of each path in the leaf that has most of it."""
    found = []
    for leaf in _leaves(executor):
        if isinstance(leaf, (FactorisedConvolution, _OfPair)):
            found.append(leaf.strengths())
        else:  # linear in independent weights of unit variance: the root of the mean square
            found.append(_jacobian_of_weights(leaf, _points(leaf.weight_numel)).square().sum((0, 1)).sqrt())
    table = torch.stack(found)
    return table.gather(0, table.abs().argmax(0, keepdim=True))[0]


def _jacobian_of_weights(leaf: Convolution, weight: Tensor) -> Float[Tensor, "weights slots paths"]:
    """Derivative of ``path_weights`` at ``weight``: each edge of the batch has its own tangent vector."""
    batch = weight.repeat(len(weight), 1).unsqueeze(2)
    return (
        torch.func.jvp(leaf.path_weights, (batch,), (torch.eye(len(weight)).to(weight).unsqueeze(2),))[1]
        .squeeze(3)
        .detach()
    )


def _jacobian_with_maps(
    leaf: Convolution, seed: int
) -> tuple[Float[Tensor, "paths maps_before"], Float[Tensor, "paths own"]]:
    """Derivatives of the coefficients of all paths: with respect to the maps before, and to weights and maps after.

    Every edge of a batch takes the coefficient of one path.
    """
    spec, paths = leaf.spec, len(leaf.spec.paths)
    ones, twos = len(spec.irreps_in1), len(spec.irreps_in2)
    before = _points(ones + twos).expand(paths, -1).clone().requires_grad_()  # the same for every leaf
    own = _points(leaf.weight_numel + sum(leaf.copies.values()), seed).expand(paths, -1).clone().requires_grad_()
    a = before[:, [path.i1 for path in spec.paths]]  # (edges, paths)
    b = before[:, [ones + path.i2 for path in spec.paths]]
    weight, c = own.split([leaf.weight_numel, sum(leaf.copies.values())], dim=1)
    coefficients = a * b * (c.unsqueeze(2) * leaf.path_weights(weight.unsqueeze(2)).squeeze(3)).sum(1)
    first, second = torch.autograd.grad(coefficients.diagonal().sum(), [before, own])
    return first, second


def _points(count: int, seed: int = 0) -> Float[Tensor, " count"]:
    """Numbers of random sign, none near zero."""
    draw = np.random.RandomState(seed)
    return torch.from_numpy(draw.uniform(0.5, 1.5, count) * draw.choice([-1.0, 1.0], count))


def _rank(jacobian: Float[Tensor, "rows columns"]) -> int:
    if jacobian.numel() == 0:
        return 0
    sizes = jacobian.norm(dim=0)
    # A column that is rounding next to the others is none.
    kept = jacobian[:, sizes > RANK_TOLERANCE * sizes.max().clamp(min=1e-100)]
    if kept.numel() == 0:
        return 0
    values = torch.linalg.svdvals(kept / kept.norm(dim=0))
    return int((values > RANK_TOLERANCE * values[0]).sum())


# Many-body products


def _require_few(spec: ManyBodySpec) -> None:
    """Refuse products with more polynomials than can be counted one by one."""
    pairs = [(nu, out) for nu in range(1, spec.correlation + 1) for _, out in spec.irreps_out]
    terms = sum(count_terms(spec.irreps_in, nu, out) for nu, out in pairs)
    if terms > MOST_TERMS:
        polynomials = sum(count_covariants(spec.irreps_in, nu, out) for nu, out in pairs)
        raise ValueError(
            f"this product has {polynomials:,} polynomials with {terms:,} terms, and they are counted one by one up to "
            f"{MOST_TERMS:,}; explain a lower `correlation` or lower degrees"
        )


def _polynomials_reached(spec: ManyBodySpec, method: Method | None) -> tuple[tuple[Part, ...], int]:
    """For every output and number of factors the dimension reached of all there is, and the dimension of all together."""
    orders = range(1, spec.correlation + 1)
    _require_few(spec)
    found = {nu: covariants(spec.irreps_in, nu, spec.irreps_out.lmax) for nu in orders}
    bases = {(out, nu): found[nu][out] for _, out in spec.irreps_out for nu in orders if out in found[nu]}
    if method is None:
        return tuple(Part(str(nu), str(out), 0, len(basis.contents)) for (out, nu), basis in bases.items()), 0
    counts = {
        out: sum(len(basis.contents) for (o, _), basis in bases.items() if o == out) for _, out in spec.irreps_out
    }
    samples = max(2 * max(counts.values()), 16)
    # Channels know nothing of each other: each is a sample, with weights of its own.
    irreps = [with_channels([ir for _, ir in given], samples) for given in (spec.irreps_in, spec.irreps_out)]
    executor: Any = method.many_body(ManyBodySpec(irreps[0], irreps[1], spec.correlation, 1))
    executor = executor.double()
    x = torch.from_numpy(np.random.RandomState(0).standard_normal((1, irreps[0].dim // samples, samples)))
    weight = _points(executor.weight_numel).unsqueeze(1).expand(-1, samples).unsqueeze(0).clone().requires_grad_()
    result = executor(x, weight, SpeciesGroups(torch.zeros(1, dtype=torch.int64)))[0]
    derivative = torch.stack(  # (rows, weights, samples)
        [torch.autograd.grad(row.sum(), weight, retain_graph=True, materialize_grads=True)[0][0] for row in result]
    )
    terms = {nu: x[0][torch.from_numpy(monomials(x.shape[1], nu))].prod(1) for nu in orders}  # (monomials, samples)
    parts, everything, row = [], [], 0
    for _, out in spec.irreps_out:
        here = [(nu, basis) for (o, nu), basis in bases.items() if o == out]
        blocks = [torch.einsum("pkm,ms->ksp", torch.from_numpy(b.coefficients), terms[nu]) for nu, b in here]
        if here:
            values = derivative[row : row + out.dim].transpose(1, 2).flatten(0, 1)  # (components * samples, weights)
            coefficients = torch.linalg.lstsq(torch.cat(blocks, dim=2).flatten(0, 1), values).solution
            everything.append(coefficients)
            sizes = [len(basis.contents) for _, basis in here]
            for (nu, _), block, size in zip(here, coefficients.split(sizes), sizes):
                parts.append(Part(str(nu), str(out), _rank(block), size))
        row += out.dim
    return tuple(parts), _rank(torch.cat(everything)) if everything else 0
