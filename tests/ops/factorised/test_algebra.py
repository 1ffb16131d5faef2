"""Algebras realise the tensors of their pairings, exactly, and with anything less they do not; pairings are what they say."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from e3nn import o3
from scipy.special import eval_legendre
from torch import Tensor

from equinet.ops import (
    Bracket,
    ClebschGordan,
    CPDecomposed,
    GauntFourier,
    GauntGrid,
    MatrixProduct,
    Method,
    TensorProductSpec,
    natural_irreps,
)
from equinet.ops.coupling.pairings import (
    Pairing,
    bracket,
    dense_tensor,
    gaunt,
    matrix,
    output_scales,
    reached_outputs,
    uniform,
)
from equinet.ops.coupling.quadrature import next_smaller_rule, smallest_rule
from equinet.ops.factorised.algebra import Algebra, Matrices
from equinet.ops.factorised.convolution import FactorisedConvolution
from equinet.ops.factorised.sphere import SeparableSphere, bracket_algebra, gaunt_algebra
from equinet.ops.factorised.torus import Torus
from equinet.ops.methods.cp import CPTerms
from equinet.ops.methods.matrix import matrix_degree
from equinet.testing import TensorProductContract

Irreps = tuple[o3.Irreps, o3.Irreps, o3.Irreps]
BOTH = "0e+0o+1e+1o+2e+2o+3e+3o"
SETS = {
    "true": ("0e+1o+2e+3o+4e", "0e+1o+2e+3o+4e", "0e+1o+1e+2e+2o+3o+3e+4e"),
    "both kinds": (BOTH,) * 3,
    "both kinds, true": (BOTH, "0e+1o+2e", BOTH),
    "pseudo, true": ("0o+1e+2o", "0e+1o+2e+3o", "0o+1e+1o+2e"),
    "pseudo, pseudo": ("1e+2o", "0o+1e", "0e+1o+1e+2e"),
    "unsorted": ("2e+0e+1o", "1o+3o", "3o+1e+0e+2e"),
    "one each": ("2e", "1o", "1o+3o+2o"),
}


def irreps_of(name: str) -> Irreps:
    first, second, out = (o3.Irreps(text) for text in SETS[name])
    return first, second, out


def by_grid(irreps: Irreps) -> tuple[Algebra, Pairing]:
    return gaunt_algebra(*irreps, smallest_rule(sum(each.lmax for each in irreps))), gaunt


def by_separable_grid(irreps: Irreps) -> tuple[Algebra, Pairing]:
    return SeparableSphere(*irreps, sum(each.lmax for each in irreps)), gaunt


def by_torus(irreps: Irreps) -> tuple[Algebra, Pairing]:
    return Torus(*irreps), gaunt


def by_bracket(irreps: Irreps) -> tuple[Algebra, Pairing]:
    return bracket_algebra(*irreps, smallest_rule(max(sum(each.lmax for each in irreps) - 1, 0))), bracket


def by_matrices(irreps: Irreps) -> tuple[Algebra, Pairing]:
    return Matrices(*irreps), matrix(matrix_degree(max(each.lmax for each in irreps)))


REALISED = [by_grid, by_separable_grid, by_torus, by_bracket, by_matrices]


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("realise", REALISED)
def test_an_algebra_realises_the_tensor_of_its_pairing(
    realise: Callable[[Irreps], tuple[Algebra, Pairing]], name: str
) -> None:
    irreps = irreps_of(name)
    algebra, pairing = realise(irreps)
    expected = dense_tensor(*irreps, pairing)
    assert expected.norm() > 0.3
    torch.testing.assert_close(algebra.double().dense(), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("realise", REALISED)
def test_products_of_features_are_those_of_the_dense_tensor(
    realise: Callable[[Irreps], tuple[Algebra, Pairing]],
) -> None:
    irreps = irreps_of("both kinds, true")
    algebra = realise(irreps)[0].double()
    torch.manual_seed(0)
    x, y = (torch.randn(3, each.dim, 2).double() for each in irreps[:2])
    found = algebra.back(algebra.multiply(algebra.left(x), algebra.right(y)))
    torch.testing.assert_close(found, torch.einsum("ijk,nic,njc->nkc", algebra.dense(), x, y), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(algebra.right(y), algebra.right_values @ y, rtol=1e-12, atol=1e-12)
    assert algebra.values == algebra.right_values.shape[0]


def test_a_decomposition_of_exact_rank_has_every_coupling_with_strength_one() -> None:
    irreps = o3.Irreps("0e+1e"), o3.Irreps("0e+1e"), o3.Irreps("0e+1e")
    algebra = CPTerms(*irreps, rank=8, trainable=False).double()
    torch.testing.assert_close(algebra.dense(), dense_tensor(*irreps, uniform), rtol=0, atol=1e-12)


@pytest.mark.parametrize("realise", REALISED)
def test_scaling_the_result_scales_its_components(realise: Callable[[Irreps], tuple[Algebra, Pairing]]) -> None:
    algebra = realise(irreps_of("pseudo, true"))[0].double()
    before, factors = algebra.dense(), torch.linspace(-1, 2, 12, dtype=torch.float64)
    algebra.scale_out(factors)
    torch.testing.assert_close(algebra.double().dense(), before * factors, rtol=0, atol=1e-14)


DEGREES = [(1, 1, 1), (1, 1, 2), (1, 2, 3), (2, 2, 1), (2, 2, 2), (2, 3, 3), (3, 3, 3), (4, 4, 4)]


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("degrees", DEGREES)
def test_with_the_next_smaller_rule_the_gaunt_product_is_wrong(degrees: tuple[int, int, int]) -> None:
    first, second, out = (natural_irreps(degree) for degree in degrees)
    expected = dense_tensor(first, second, out, gaunt)
    assert relative(gaunt_algebra(first, second, out, smallest_rule(sum(degrees))).double().dense(), expected) < 1e-14
    smaller = next_smaller_rule(sum(degrees))
    assert smaller is not None
    assert relative(gaunt_algebra(first, second, out, smaller).double().dense(), expected) > 1e-2


@pytest.mark.parametrize("degrees", [d for d in DEGREES if d != (1, 1, 2)] + [(1, 2, 2)])
def test_with_the_next_smaller_rule_the_bracket_is_wrong(degrees: tuple[int, int, int]) -> None:
    first, second = natural_irreps(degrees[0]), natural_irreps(degrees[1])
    out = o3.Irreps([(1, (l, (-1) ** (l + 1))) for l in range(degrees[2] + 1)])
    expected = dense_tensor(first, second, out, bracket)
    needed = sum(degrees) - 1
    assert relative(bracket_algebra(first, second, out, smallest_rule(needed)).double().dense(), expected) < 1e-14
    smaller = next_smaller_rule(needed)
    assert smaller is not None
    assert relative(bracket_algebra(first, second, out, smaller).double().dense(), expected) > 1e-2


@pytest.mark.parametrize(
    ("method", "spec"),
    [
        (GauntGrid(), TensorProductSpec("2x0e+2x1o", "0e+1o", "0e+1o")),
        (GauntGrid(), TensorProductSpec("2x0e+2x1o+2x2e", "0e+1o+2e+3o", "0e+1o+2e+3o")),
        (Bracket(), TensorProductSpec("2x1o+2x2e", "1o+2e", "1e+2o+3e")),
        (GauntGrid(bracket=True), TensorProductSpec("2x0e+2x1o", "0e+1o+2e", "0e+1o+1e+2e+2o")),
    ],
)
def test_with_the_next_smaller_rule_a_convolution_does_not_turn_with_its_inputs(
    method: Method, spec: TensorProductSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TensorProductContract(method, spec).check_rotations() is None
    for module in ("gaunt", "bracket"):
        monkeypatch.setattr(f"equinet.ops.methods.{module}.smallest_rule", next_smaller_rule)
    contract = TensorProductContract(method, spec)
    with pytest.raises(AssertionError, match="rotations: off by"):
        contract.check_rotations()
    assert contract.measured["rotations"] > 1e-2


class FewerLatitudes(Torus):
    @property
    def latitudes(self) -> int:
        return self._latitudes - 1

    @latitudes.setter
    def latitudes(self, value: int) -> None:
        self.__dict__["_latitudes"] = value


class FewerLongitudes(Torus):
    @property
    def longitudes(self) -> int:
        return self._longitudes - 1

    @longitudes.setter
    def longitudes(self, value: int) -> None:
        self.__dict__["_longitudes"] = value


@pytest.mark.parametrize("fewer", [FewerLatitudes, FewerLongitudes])
@pytest.mark.parametrize("degrees", [(1, 2, 3), (2, 2, 2), (2, 3, 3), (3, 3, 3)])
def test_with_one_row_or_column_less_the_torus_is_too_small(fewer: type[Torus], degrees: tuple[int, int, int]) -> None:
    first, second, out = (natural_irreps(degree) for degree in degrees)
    expected = dense_tensor(first, second, out, gaunt)
    assert relative(Torus(first, second, out).double().dense(), expected) < 1e-14
    # A latitude less folds the two highest frequencies onto each other, no more: little, but a symmetry is gone.
    assert relative(fewer(first, second, out).double().dense(), expected) > 5e-3


def a_fine_grid() -> tuple[Tensor, Tensor]:
    """24 Gauss-Legendre latitudes and 48 longitudes, and weights that add to one; independent of the package's rules."""
    y, weights = np.polynomial.legendre.leggauss(24)
    alpha = 2 * np.pi * np.arange(48) / 48
    radius = np.sqrt(1 - y**2)[:, None]
    points = np.stack(np.broadcast_arrays(radius * np.sin(alpha), y[:, None], radius * np.cos(alpha)), axis=2)
    return torch.from_numpy(points.reshape(-1, 3)), torch.from_numpy(np.repeat(weights, 48) / 96)


def harmonic(l: int, points: Tensor) -> Tensor:
    return o3.spherical_harmonics(l, points, normalize=True, normalization="component")


def couplings(highest: int) -> list[tuple[int, int, int]]:
    degrees = range(highest + 1)
    return [(a, b, c) for a in degrees for b in degrees for c in degrees if abs(a - b) <= c <= a + b]


def wigner(l1: int, l2: int, l3: int) -> Tensor:
    return o3.wigner_3j(l1, l2, l3, dtype=torch.float64)


def test_the_gaunt_pairing_is_the_integral_of_three_harmonics() -> None:
    points, measure = a_fine_grid()
    for l1, l2, l3 in couplings(4):
        integral = torch.einsum("g,gi,gj,gk->ijk", measure, *(harmonic(l, points) for l in (l1, l2, l3)))
        torch.testing.assert_close(integral, gaunt(l1, l2, l3) * wigner(l1, l2, l3), rtol=0, atol=1e-13)
        assert gaunt(l1, l2, l3) == 0 if (l1 + l2 + l3) % 2 else gaunt(l1, l2, l3) > 0.1


def test_the_bracket_pairing_is_the_integral_of_a_triple_product_with_gradients() -> None:
    points, measure = a_fine_grid()
    gradients = []
    for l in range(5):
        gradient = torch.func.vmap(torch.func.jacrev(lambda r, l=l: harmonic(l, r[None])[0]))(
            points
        )  # (points, dim, 3)
        gradients.append(gradient / math.sqrt(max(l * (l + 1), 1)))
    for l1, l2, l3 in couplings(4):
        crossed = torch.linalg.cross(gradients[l1].unsqueeze(2), gradients[l2].unsqueeze(1))
        integral = torch.einsum("g,gx,gijx,gk->ijk", measure, points, crossed, harmonic(l3, points))
        torch.testing.assert_close(integral, bracket(l1, l2, l3) * wigner(l1, l2, l3), rtol=0, atol=1e-13)
        assert bracket(l1, l2, l3) == 0 if (l1 + l2 + l3) % 2 == 0 else bracket(l1, l2, l3) > 0.1


@pytest.mark.parametrize("degree", [1, 2])
def test_the_matrix_pairing_is_the_product_of_matrices(degree: int) -> None:
    size = 2 * degree + 1
    basis = [math.sqrt(2 * l + 1) * wigner(degree, degree, l) for l in range(2 * degree + 1)]  # trace of squares is one
    for l1, l2, l3 in couplings(2 * degree):
        product = torch.einsum("abi,bcj->acij", basis[l1], basis[l2])
        found = math.sqrt(size) * torch.einsum("acij,ack->ijk", product, basis[l3])
        torch.testing.assert_close(found, matrix(degree)(l1, l2, l3) * wigner(l1, l2, l3), rtol=0, atol=1e-13)


def test_a_dense_tensor_holds_the_couplings_that_parity_allows() -> None:
    tensor = dense_tensor(o3.Irreps("3x1o"), o3.Irreps("1o+1e"), o3.Irreps("0e+0o+1e"), lambda *degrees: 2.0)
    assert tensor.shape == (3, 6, 5)
    torch.testing.assert_close(tensor[:, :3, :1], 2 * wigner(1, 1, 0), rtol=0, atol=1e-15)
    torch.testing.assert_close(tensor[:, 3:, 1:2], 2 * wigner(1, 1, 0), rtol=0, atol=1e-15)
    torch.testing.assert_close(tensor[:, :3, 2:], 2 * wigner(1, 1, 1), rtol=0, atol=1e-15)
    assert tensor[:, :3, 1].norm() == tensor[:, 3:, 0].norm() == tensor[:, 3:, 2:].norm() == 0


@pytest.mark.parametrize("pairing", [gaunt, bracket, matrix(1), uniform])
def test_scales_bring_the_squares_of_the_strengths_into_an_output_to_its_dimension(pairing: Pairing) -> None:
    spec = TensorProductSpec("2x0e+2x1o+2x1e", "0e+1o+2e", "0e+0o+1o+1e+2o")
    outputs, scales = reached_outputs(spec, pairing), output_scales(spec, pairing)
    assert len(scales) == outputs.dim
    for (_, out), part in zip(outputs, outputs.slices()):
        irreps = [[each.ir for each in given] for given in (spec.irreps_in1, spec.irreps_in2)]
        total = sum(pairing(irreps[0][p.i1].l, irreps[1][p.i2].l, out.l) ** 2 for p in spec.paths if p.out == out)
        torch.testing.assert_close(scales[part].square() * total, torch.full((out.dim,), float(out.dim)).double())
    assert o3.Irrep("0o") in [ir for _, ir in outputs] or pairing is bracket


@pytest.mark.parametrize(
    ("method", "pairing"),
    [
        (GauntGrid(), gaunt),
        (GauntGrid(transform="separable"), gaunt),
        (GauntFourier(), gaunt),
        (MatrixProduct(), matrix(1)),
        (CPDecomposed(rank=14), uniform),
    ],
)
def test_the_squares_of_a_convolutions_strengths_add_to_one(method: Method, pairing: Pairing) -> None:
    spec = TensorProductSpec("2x0e+2x1o", "0e+1o+2e", "0e+1o+2e")
    executor = method.convolution(spec).double()
    strengths = [pairing(spec.irreps_in1[i].ir.l, spec.irreps_in2[j].ir.l, out.l) for i, j, out in spec.paths]
    weight = torch.full((1, executor.weight_numel, 2), 3.0).double()
    found = executor.path_weights(weight)[0, :, :, 0]
    for slot, out in enumerate(spec.paths_per_output):
        of_slot = [t if path.out == out else 0.0 for t, path in zip(strengths, spec.paths)]
        expected = 3 * torch.nn.functional.normalize(torch.tensor(of_slot, dtype=torch.float64), dim=0)
        torch.testing.assert_close(found[slot], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pseudo", [False, True])
def test_gaunts_product_commutes_and_the_bracket_changes_sign(pseudo: bool) -> None:
    irreps = irreps_of("both kinds" if pseudo else "true")
    for realise, sign in ((by_grid, 1), (by_torus, 1), (by_separable_grid, 1), (by_bracket, -1)):
        dense = realise((irreps[0], irreps[0], o3.Irreps(BOTH)))[0].double().dense()
        assert dense.norm() > 1
        torch.testing.assert_close(dense, sign * dense.transpose(0, 1), rtol=0, atol=1e-13)


def test_the_bracket_of_two_vectors_is_along_their_cross_product() -> None:
    algebra = bracket_algebra(o3.Irreps("1o"), o3.Irreps("1o"), o3.Irreps("1e"), smallest_rule(2)).double()
    torch.manual_seed(0)
    a, b = torch.randn(2, 3).double()
    found = torch.einsum("ijk,i,j->k", algebra.dense(), a, b)
    torch.testing.assert_close(found, math.sqrt(3) / 2 * torch.linalg.cross(a, b), rtol=1e-13, atol=1e-13)


def test_a_matrix_times_the_matrix_of_one_is_itself() -> None:
    irreps = o3.Irreps(BOTH)
    algebra = Matrices(irreps, irreps, irreps).double()
    torch.manual_seed(0)
    x, one = torch.randn(1, irreps.dim, 1).double(), torch.zeros(1, irreps.dim, 1).double()
    one[0, 0] = 1
    for left, right in ((one, x), (x, one)):
        torch.testing.assert_close(algebra.back(algebra.multiply(algebra.left(left), algebra.right(right))), x)


def test_products_of_matrices_are_associative() -> None:
    irreps = o3.Irreps("0e+0o+1e+1o+2e+2o")  # all that matrices of 3 rows and both parities hold
    algebra = Matrices(irreps, irreps, irreps).double()
    torch.manual_seed(0)
    a, b, c = torch.randn(3, 2, irreps.dim, 1).double()

    def times(x: Tensor, y: Tensor) -> Tensor:
        return algebra.back(algebra.multiply(algebra.left(x), algebra.right(y)))

    torch.testing.assert_close(times(times(a, b), c), times(a, times(b, c)), rtol=1e-12, atol=1e-12)
    assert (times(a, b) - times(b, a)).norm() > 0.1


@pytest.mark.parametrize(
    "method",
    [GauntGrid(), GauntGrid(copies=2, weights="degrees"), GauntGrid(weights="shared"), GauntFourier(), MatrixProduct(), CPDecomposed(rank=14)],
)  # fmt: skip
def test_independent_inputs_of_unit_variance_give_unit_variance(method: Method) -> None:
    spec = TensorProductSpec("2x0e+2x1o", "0e+1o+2e", "0e+1o+2e")
    executor = method.convolution(spec)
    draws = 20000
    torch.manual_seed(0)
    features, second, weight = (
        torch.randn(draws, 4, 2),
        torch.randn(draws, 9),
        torch.randn(draws, executor.weight_numel, 2),
    )
    out = executor(features, second, weight, torch.arange(draws).repeat(2, 1))
    rows = out.square().mean((0, 2))
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0.15, atol=0)


@pytest.mark.parametrize(
    ("features", "copies", "rank"),
    [("1x0e+1x1o+1x2e", 1, 9), ("1x0e+1x1o+1x2e", 2, 17), ("1x0e+1x1o", 1, 8), ("1x0e+1x1o", 2, 10)],
)
@pytest.mark.parametrize("method", [GauntGrid, GauntFourier])
def test_two_copies_with_weights_on_degrees_span_every_path_of_maces_convolution(
    method: type, features: str, copies: int, rank: int
) -> None:
    spec = TensorProductSpec(features, natural_irreps(3), natural_irreps(3))
    executor = method(copies=copies, weights="degrees").convolution(spec).double()
    torch.manual_seed(0)
    weight = torch.randn(1, executor.weight_numel, 1).double()
    # The linear map that follows adds copies; here with coefficients one.
    jacobian = torch.func.jacrev(lambda w: executor.path_weights(w).sum(1).flatten())(weight).flatten(1)
    assert jacobian.shape[0] == len(spec.paths) == {"1x0e+1x1o+1x2e": 17, "1x0e+1x1o": 10}[features]
    assert torch.linalg.matrix_rank(jacobian, rtol=1e-10) == rank


@pytest.mark.parametrize(
    "method", [GauntGrid(), GauntFourier(), GauntGrid(weights="degrees", copies=2), MatrixProduct()]
)
def test_of_scalars_every_method_makes_the_exact_convolution(method: Method) -> None:
    spec = TensorProductSpec("4x0e", "0e+1o+2e", "0e+1o+2e")
    executor, exact = method.convolution(spec), ClebschGordan().convolution(spec)
    assert type(executor) is type(exact)
    assert executor.weight_numel == 3
    inputs = torch.randn(4, 1, 4), torch.randn(6, 9), torch.randn(6, 3, 4), torch.randint(4, (2, 6))
    assert torch.equal(executor(*inputs), exact(*inputs))


def test_a_weight_shared_by_all_paths_is_one_weight_of_scalars_too() -> None:
    spec = TensorProductSpec("4x0e", "0e+1o+2e", "0e+1o+2e")
    assert GauntGrid(weights="shared").convolution(spec).weight_numel == 1


def test_of_scalars_the_grid_itself_makes_the_exact_convolution() -> None:
    """Without the short cut: weights per degree of the filter are the paths' own."""
    spec = TensorProductSpec("4x0e", "0e+1o+2e", "0e+1o+2e")
    outputs = reached_outputs(spec, gaunt)
    algebra = gaunt_algebra(o3.Irreps("0e"), spec.irreps_in2, outputs, smallest_rule(4))
    algebra.scale_out(output_scales(spec, gaunt))
    executor = FactorisedConvolution(spec, algebra, outputs, weights="filter", copies=1).double()
    torch.manual_seed(0)
    inputs = torch.randn(4, 1, 4).double(), torch.randn(6, 9).double(), torch.randn(6, 3, 4).double()
    edges = torch.randint(4, (2, 6))
    expected = ClebschGordan().convolution(spec).double()(*inputs, edges)
    torch.testing.assert_close(executor(*inputs, edges), expected, rtol=1e-12, atol=1e-12)


def test_the_values_of_harmonics_of_a_direction_are_legendre_polynomials_of_the_angle() -> None:
    rule = smallest_rule(9)
    irreps = natural_irreps(3)
    algebra = gaunt_algebra(irreps, irreps, irreps, rule).double()
    direction = torch.nn.functional.normalize(torch.tensor([[0.3, -0.5, 0.8]], dtype=torch.float64), dim=1)
    cosine = (torch.tensor(rule.points) @ direction[0]).numpy()
    for l, part in enumerate(irreps.slices()):
        zonal = algebra.right_values[:, part] @ harmonic(l, direction)[0]
        torch.testing.assert_close(zonal, torch.from_numpy((2 * l + 1) * eval_legendre(l, cosine)), rtol=0, atol=1e-12)
