"""The many-body product as powers in an algebra: calibrated sizes, which terms have weights, copies, the linear term."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from equinet.ops import Bracket, CPDecomposed, GauntFourier, GauntGrid, ManyBodySpec, MatrixProduct, SpeciesGroups
from equinet.ops.factorised.powers import MODULATION_SPREAD, DenseChain, PowerManyBody

METHODS = [GauntGrid(), GauntFourier(), GauntGrid(bracket=True), MatrixProduct(), CPDecomposed(rank=14)]
SPEC = ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 3, 1)
# Scales of the columns of SPEC's Gaunt product, made by this code with numpy 2.4; saved weights rely on them.
STORED = [1, 1, 1, 1, 0.13120925120724136, 0.40059064910533637, 0.036217003353629124, 0.029146121042098693]


def power_of(method: object, spec: ManyBodySpec) -> PowerManyBody:
    executor = method.many_body(spec)  # type: ignore[attr-defined]
    assert isinstance(executor, PowerManyBody)
    return executor


def species_of(features: Tensor) -> SpeciesGroups:
    return SpeciesGroups(torch.zeros(len(features), dtype=torch.int64))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("irreps_in", "irreps_out", "correlation"),
    [("1x0e+1x1o", "1x0e+1x1o", 3), ("1x0e+1x1o", "1x0e+1x1o", 4), ("1x1o+1x0e", "1x0e+1x1o+1x2e", 2)],
)
def test_every_product_has_unit_size(method: object, irreps_in: str, irreps_out: str, correlation: int) -> None:
    spec = ManyBodySpec(irreps_in, irreps_out, correlation, 1)
    executor = method.many_body(spec)  # type: ignore[attr-defined]
    parts = list(executor.parts) if hasattr(executor, "parts") else [executor]
    torch.manual_seed(1)  # numpy's generator made the constants
    draws = 20000
    features = torch.randn(draws, 4, 1)
    for part in parts:
        modulations = part._per_copy[0]
        for n, (_, k) in enumerate(part.terms):
            weight = torch.zeros(draws, part.weight_numel, 1)
            before = len(part.linear)
            weight[:, before : before + modulations] = 1 + MODULATION_SPREAD * torch.randn(draws, modulations, 1)
            weight[:, before + modulations + n] = 1
            result = part(features, weight, SpeciesGroups(torch.arange(draws)))
            size = result.square().mean((0, 2)).split([ir.dim for _, ir in spec.irreps_out])[k].mean().item()
            assert 0.7 < size < 1.4  # of fourth powers 4096 draws leave this much open


def test_means_of_squares_are_those_of_exact_moments() -> None:
    """The product of two scalars of variance one: E x^4 = 3, and 15 for three, times the moments of the factors."""
    executor = power_of(GauntGrid(), ManyBodySpec("1x0e", "1x0e", 3, 1))
    moments = [
        sum(math.comb(n, 2 * j) * 0.5 ** (2 * j) * math.prod(range(1, 2 * j, 2)) for j in range(n // 2 + 1))
        for n in (4, 6)
    ]
    expected = [1 / math.sqrt(3 * moments[0]), 1 / math.sqrt(15 * moments[1])]
    assert executor.originals["column_scale"][2:].tolist() == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_constants_are_the_same_every_time(default: torch.dtype, request: pytest.FixtureRequest) -> None:
    if default == torch.float64:
        request.getfixturevalue("double_default")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    scale = power_of(GauntGrid(), SPEC).originals["column_scale"]
    assert torch.equal(torch.get_rng_state(), before)  # nobody's random numbers are used up
    assert scale.tolist() == pytest.approx(STORED, rel=1e-12)
    assert power_of(GauntFourier(), SPEC).originals["column_scale"].tolist() == pytest.approx(STORED, rel=1e-12)


def test_sizes_do_not_depend_on_the_rank_of_a_decomposition() -> None:
    scales = [power_of(CPDecomposed(rank=rank), SPEC).column_scale for rank in (2, 6, 8)]
    assert torch.equal(scales[0], scales[1])
    assert torch.equal(scales[0], scales[2])
    assert torch.equal(scales[0], power_of(CPDecomposed(rank=6, backend="reference"), SPEC).column_scale)


@pytest.mark.parametrize(
    ("method", "irreps_in", "irreps_out", "terms"),
    [
        (GauntGrid(), "1x0e+1x1o", "1x0e+1x1o", [(2, 0), (2, 1), (3, 0), (3, 1)]),
        (GauntGrid(), "1x1o", "1x0e+1x1o+1x2e", [(2, 0), (2, 2), (3, 1)]),
        (GauntGrid(), "1x1o+1x0o", "1x0e+1x0o+1x1e+1x1o", [(2, 0), (2, 2), (3, 1), (3, 3)]),
        (Bracket(), "1x1o+1x2e", "1x0e+1x2o+1x1e", [(2, 1), (3, 1), (3, 2)]),
        (Bracket(), "1x0e+1x1o", "1x0e+1x1o", []),
        (MatrixProduct(), "1x1o", "1x0e+1x1e", [(2, 0)]),
    ],
)
def test_products_that_vanish_have_no_weight(
    method: object, irreps_in: str, irreps_out: str, terms: list[tuple[int, int]]
) -> None:
    executor = power_of(method, ManyBodySpec(irreps_in, irreps_out, 3, 1))
    assert executor.terms == terms
    factors = executor._per_copy[0]
    assert (factors == 0) == (not terms)  # factors of nothing are no weights either
    assert executor.weight_numel == len(executor.linear) + factors + len(terms)


@pytest.mark.parametrize(
    ("method", "irreps", "sets"),
    [
        (GauntGrid(), "1x0e+1x0o+1x1o", 1),
        (MatrixProduct(), "1x0e+1x1o", 2),
        (CPDecomposed(rank=2), "1x0e+1x1o", 1),
        (CPDecomposed(rank=2), "1x0e+1x1e", 2),
        (CPDecomposed(rank=2), "1x0e+1x0o+1x1o", 2),
    ],
)
def test_factors_of_a_product_that_does_not_commute_have_two_sets_of_weights(
    method: object, irreps: str, sets: int
) -> None:
    executor = power_of(method, ManyBodySpec(irreps, irreps, 2, 1))
    assert executor._per_copy[0] == sets * len(irreps.split("+"))


def test_a_product_of_nothing_is_the_linear_term() -> None:
    executor = power_of(Bracket(), ManyBodySpec("3x0e+3x1o", "3x1o", 2, 1))
    assert executor.weight_numel == 1
    features, weight = torch.randn(5, 4, 3), torch.randn(1, 1, 3)
    torch.testing.assert_close(executor(features, weight, species_of(features)), weight * features[:, 1:])
    assert executor.initial_weight().shape == (1, 1, 3)


def test_the_linear_term_takes_each_irrep_to_itself() -> None:
    spec = ManyBodySpec("2x1o+2x0e+2x2e", "2x2e+2x0e+2x1e+2x1o", 1, 2)
    for method in (GauntGrid(), GauntGrid(bracket=True), MatrixProduct()):
        executor = method.many_body(spec)
        assert executor.weight_numel == 3  # also where several products stand side by side
        features = torch.randn(4, 9, 2)
        weight, species = torch.randn(2, 3, 2), torch.tensor([0, 1, 1, 0])
        out = executor(features, weight, SpeciesGroups(species))
        w = weight[species]
        expected = torch.cat([w[:, :1] * features[:, 4:], w[:, 1:2] * features[:, 3:4], torch.zeros(4, 3, 2), w[:, 2:] * features[:, :3]], 1)  # fmt: skip
        torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("method", [GauntGrid, Bracket, MatrixProduct])
def test_copies_are_products_with_weights_of_their_own(method: type) -> None:
    spec = ManyBodySpec("2x1o+2x2e", "2x1e+2x2o" if method is Bracket else "2x1o+2x2e", 3, 2)
    one, three = power_of(method(), spec), power_of(method(copies=3), spec)
    linear = len(one.linear)
    assert three.weight_numel - linear == 3 * (one.weight_numel - linear)
    torch.manual_seed(0)
    features, weight = torch.randn(4, 8, 2), torch.randn(2, three.weight_numel, 2)
    groups = SpeciesGroups(torch.tensor([1, 0, 0, 1]))
    own = weight[:, linear:].unflatten(1, (3, -1)).unbind(1)
    nothing = torch.zeros_like(weight[:, :linear])
    alone = [one(features, torch.cat([nothing, part], 1), groups) for part in own]
    first = one(features, torch.cat([weight[:, :linear], own[0]], 1), groups)
    torch.testing.assert_close(three(features, weight, groups), first + alone[1] + alone[2])
    assert (alone[0] - alone[1]).norm() > 0.1


def test_each_species_and_channel_has_weights_of_its_own() -> None:
    spec = ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 2, 3)
    executor = power_of(GauntGrid(), spec)
    features, weight = torch.randn(1, 4, 2).expand(3, 4, 2), torch.randn(3, executor.weight_numel, 2)
    groups = SpeciesGroups(torch.tensor([0, 1, 2]))
    before = executor(features, weight, groups)
    weight[1, :, 0] += 1
    changed = (executor(features, weight, groups) - before).abs().amax(1) > 1e-3
    assert changed.tolist() == [[False, False], [True, False], [False, False]]


@pytest.mark.parametrize("method", [*METHODS, GauntGrid(copies=3)])
def test_initial_weights_give_a_result_of_unit_size(method: object) -> None:
    spec = ManyBodySpec("4x0e+4x1o", "4x0e+4x1o", 3, 50)
    executor = method.many_body(spec)  # type: ignore[attr-defined]
    torch.manual_seed(0)
    weight = executor.initial_weight()
    assert weight.shape == (50, executor.weight_numel, 4)
    features = torch.randn(3000, 4, 4)
    out = executor(features, weight, SpeciesGroups(torch.arange(3000) % 50))
    for block in out.split([1, 3], dim=1):
        assert 0.6 < block.square().mean().item() < 1.6


def test_initial_factors_scatter_around_one_and_columns_around_zero() -> None:
    executor = power_of(GauntGrid(copies=2), ManyBodySpec("16x0e+16x1o", "16x0e+16x1o", 3, 300))
    torch.manual_seed(0)
    weight = executor.initial_weight()
    mean, spread = weight.mean((0, 2)), weight.std((0, 2))
    # Linear terms, then per copy two factors and four terms; into either output go 1 + 2 * 2 terms.
    kinds = torch.tensor([0, 0] + 2 * ([1, 1] + 4 * [0]))
    torch.testing.assert_close(mean, kinds.float(), rtol=0, atol=0.05)
    torch.testing.assert_close(spread, torch.where(kinds == 1, MODULATION_SPREAD, 1 / math.sqrt(5)), rtol=0.05, atol=0)


def test_the_reference_chain_keeps_what_the_products_leave_between() -> None:
    """Of 1o x 1o x 1o -> 1o a third goes through 2e, which is neither input nor output."""
    spec = ManyBodySpec("1x1o", "1x1o", 3, 1)
    full = DenseChain(spec, lambda *_: 1.0)
    cut = DenseChain(spec, lambda *_: 1.0, keep=lambda ir: ir.l < 2)
    x = torch.randn(3, 3, 1)
    assert (full.products(x, x, 3)[1] - cut.products(x, x, 3)[1]).norm() > 0.1
