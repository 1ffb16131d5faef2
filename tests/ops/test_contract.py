"""Every method in both roles keeps the contract, on couplings of two independent libraries; what it cannot do it says."""

from __future__ import annotations

import doctest
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from e3nn import o3
from torch import Tensor

from equinet.ops import (
    SO2,
    Bracket,
    ClebschGordan,
    CPDecomposed,
    GauntFourier,
    GauntGrid,
    ManyBodySpec,
    MatrixProduct,
    Method,
    SpeciesGroups,
    TensorProductSpec,
)
from equinet.ops.coupling.cp import coupling_tensor, cp_factors
from equinet.ops.methods.cp import factors_to_be_loaded
from equinet.ops.methods.factorised import FactorisedMethod
from equinet.testing import TensorProductContract, tensor_product

EXACT: dict[str, Method] = {
    "cg": ClebschGordan("generated"),
    "cg, torch": ClebschGordan("torch"),
    "grid": GauntGrid(),
    "grid, degrees, two copies": GauntGrid(copies=2, weights="degrees"),
    "grid, shared weights": GauntGrid(weights="shared"),
    "grid and bracket": GauntGrid(bracket=True, copies=2),
    "separable grid": GauntGrid(transform="separable", weights="degrees"),
    "fourier": GauntFourier(),
    "bracket": Bracket(),
    "bracket, degrees": Bracket(weights="degrees", copies=2),
    "matrix": MatrixProduct(),
    "matrix, degrees": MatrixProduct(weights="degrees"),
    "so2": SO2(),
}
# Convolutions through the algebra itself.
BY_ALGEBRA: dict[str, Method] = {
    f"{name}, torch": replace(method, backend="torch")
    for name, method in EXACT.items()
    if isinstance(method, FactorisedMethod)
}

# Features, second input, outputs.
CONVOLUTIONS = {
    "scalars": ("1x0e", "0e", "0e"),
    "first layer": ("4x0e", "0e+1o+2e+3o", "0e+1o+2e+3o"),
    "MACE": ("3x0e+3x1o", "0e+1o+2e+3o", "0e+1o+2e+3o"),
    "high outputs": ("1x0e+1x1o+1x2e", "0e+1o", "2e+3o"),
    "missing degrees": ("3x1o+3x3o", "1o+2e", "0e+1o+3o"),
    "isotropic": ("2x0e+2x1o+2x3o", "0e", "0e+1o"),
    "unsorted": ("3x2e+3x0e+3x1o", "1o+0e", "1o+0e+2e"),
    "cross product": ("3x1o", "1o", "1e"),
    "true to pseudo": ("3x1o+3x2e", "1o+2e", "1e+2o+3e"),
    "pseudo to true": ("1x1e+1x2o", "1o+2e", "1o+2e+3o"),
    "pseudo to pseudo": ("5x0o+5x1e", "0e+1o+2e", "0o+1e+2o"),
    "both kinds": ("3x0e+3x0o", "0e+1o+2e", "0e+0o+1o+1e"),
    "everything": ("3x0e+3x0o+3x1e+3x1o", "0e+1o+2e", "0o+1e+1o+2o"),
    "no harmonics": ("2x0e+2x1o", "0o+1e+1o", "0o+1e+1o+2o"),
}

# Features, outputs, correlation; of three species one is missing.
MANY_BODY = {
    "linear": ("3x0e+3x1o", "3x0e+3x1o", 1),
    "pairs": ("3x0e+3x1o+3x2e", "3x0e+3x1o+3x2e", 2),
    "triples": ("3x0e+3x1o+3x2e", "3x0e+3x1o", 3),
    "high degrees": ("1x0e+1x1o+1x2e+1x3o", "1x0e+1x1o", 3),
    "quadruples": ("2x0e+2x1o", "2x0e+2x1o+2x2e", 4),
    "no scalar": ("2x1o+2x2e", "2x1o+2x0e", 3),
    "pairs of both kinds": ("2x0e+2x0o+2x1e+2x1o", "2x0e+2x0o+2x1e+2x1o", 2),
    "triples of both kinds": ("1x0o+1x1o+1x2e", "1x0e+1x1o+1x1e", 3),
    "pseudo of true": ("3x1o+3x2e", "3x1e+3x2o", 3),
    "quadruples of both kinds": ("1x0e+1x0o+1x1o", "1x0e+1x0o+1x1e", 4),
}
# Of a many-body product the radial weights are no matter.
IN_MANY_BODY = [name for name in EXACT if name not in ("grid, shared weights", "matrix, degrees")]
# What the bracket makes of true tensors are pseudotensors, times further factors as well.
NO_BRACKETS = ("pairs", "triples", "high degrees", "quadruples", "no scalar", "quadruples of both kinds")


def convolution_of(name: str) -> TensorProductSpec:
    return TensorProductSpec(*CONVOLUTIONS[name])


def many_body_of(name: str) -> ManyBodySpec:
    return ManyBodySpec(*MANY_BODY[name], species=3)


def why_no_convolution(method: Method, spec: TensorProductSpec) -> str | None:
    """The words of the refusal that the mathematics demands."""
    degrees = [spec.irreps_in1[p.i1].ir.l + spec.irreps_in2[p.i2].ir.l + p.out.l for p in spec.paths]
    odd, even = any(n % 2 for n in degrees), any(n % 2 == 0 for n in degrees)
    if isinstance(method, SO2) and any(ir.p != (-1) ** ir.l for _, ir in spec.irreps_in2):
        return "must be spherical harmonics of one direction"
    if isinstance(method, (GauntGrid, GauntFourier)) and odd and not getattr(method, "bracket", False):
        return "has odd l1 + l2 + l3, and pointwise products on the sphere have even paths only"
    if isinstance(method, Bracket) and even:
        return "has even l1 + l2 + l3, and the surface bracket has odd paths only"
    return None


def why_no_many_body(method: Method, name: str) -> str | None:
    if isinstance(method, SO2):
        return "a frame needs a direction"
    if name == "pseudo of true" and isinstance(method, (GauntGrid, GauntFourier)):
        return None if getattr(method, "bracket", False) else "all its products of 3x1o+3x2e with themselves vanish"
    if isinstance(method, Bracket) and name in NO_BRACKETS:
        return "with themselves vanish, or none is one of"
    if (
        isinstance(method, Bracket) and name == "triples of both kinds"
    ):  # 2o of 1o and 2e, and 1e of that and 1o, but no 0e
        return "none of its products of up to 3 factors of 1x0o+1x1o+1x2e is 0e"
    return None


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("method", EXACT | BY_ALGEBRA)
def test_a_convolution_keeps_the_contract_or_is_refused(method: str, name: str) -> None:
    spec = convolution_of(name)
    words = why_no_convolution((EXACT | BY_ALGEBRA)[method], spec)
    if words is None:
        factor = 3.0 if method == "so2" else 2.0  # turned there and back, where the twin multiplies once
        TensorProductContract((EXACT | BY_ALGEBRA)[method], spec, float32_factor=factor).check()
    else:
        assert words in (EXACT | BY_ALGEBRA)[method].supports(spec)
        with pytest.raises(AssertionError, match="not supported: "):
            TensorProductContract((EXACT | BY_ALGEBRA)[method], spec)


@pytest.mark.parametrize("name", MANY_BODY)
@pytest.mark.parametrize("method", IN_MANY_BODY)
def test_a_many_body_product_keeps_the_contract_or_is_refused(method: str, name: str) -> None:
    spec = many_body_of(name)
    words = why_no_many_body(EXACT[method], name)
    if words is None:
        # The values of a power on the sphere are larger than what is left of them after projection.
        factor = 2.0 if spec.correlation <= 2 else 6.0
        TensorProductContract(EXACT[method], spec, float32_factor=factor).check()
    else:
        assert words in EXACT[method].supports(spec)


@cache
def e3nn_product(ir1: o3.Irrep, ir2: o3.Irrep, out: o3.Irrep, channels: int) -> o3.TensorProduct:
    return o3.TensorProduct(
        [(channels, ir1)],
        [(1, ir2)],
        [(channels, out)],
        [(0, 0, 0, "uvu", False)],
        irrep_normalization="component",
        path_normalization="none",
    )


def by_e3nn(ir1: o3.Irrep, ir2: o3.Irrep, out: o3.Irrep, x: Tensor, y: Tensor) -> Tensor:
    """``TensorProduct`` of e3nn, whose layout has the component innermost."""
    product = e3nn_product(ir1, ir2, out, x.shape[2])
    return product(x.transpose(1, 2).flatten(1), y).unflatten(1, (x.shape[2], out.dim)).transpose(1, 2)


@cache
def cuequivariance_product(ir1: o3.Irrep, ir2: o3.Irrep, out: o3.Irrep, channels: int) -> Callable[..., list[Tensor]]:
    cue = pytest.importorskip("cuequivariance", reason="the second independent library is not installed")
    cuet = pytest.importorskip("cuequivariance_torch", reason="the second independent library is not installed")
    irreps = (cue.Irreps("O3", text) for text in (f"{channels}x{ir1}", str(ir2), str(out)))
    polynomial = cue.descriptors.channelwise_tensor_product(*irreps).polynomial
    return cuet.SegmentedPolynomial(polynomial, method="reference", math_dtype=torch.float64)


def by_cuequivariance(ir1: o3.Irrep, ir2: o3.Irrep, out: o3.Irrep, x: Tensor, y: Tensor) -> Tensor:
    """Segmented polynomial of cuequivariance, whose layout has the channel innermost, as ours."""
    product = cuequivariance_product(ir1, ir2, out, x.shape[2])
    return product([x.new_ones(len(x), x.shape[2]), x.flatten(1), y])[0].unflatten(1, (out.dim, x.shape[2]))


@pytest.mark.parametrize("library", [by_e3nn, by_cuequivariance])
@pytest.mark.parametrize("method", EXACT)
@pytest.mark.usefixtures("double_default")
def test_couplings_of_other_libraries_give_the_same(method: str, library: Callable[..., Tensor]) -> None:
    for spec in map(convolution_of, CONVOLUTIONS):
        if EXACT[method].supports(spec) is None:
            tensor_product = TensorProductContract(EXACT[method], spec)
            tensor_product.role.product_of = library
            tensor_product.check_values()


# Specs of which a decomposition is exact from this rank on.
DECOMPOSED: dict[str, tuple[TensorProductSpec | ManyBodySpec, int]] = {
    "vectors": (TensorProductSpec("3x0e+3x1o", "0e+1o", "0e+1o"), 6),
    "cross product": (TensorProductSpec("3x1o", "1o", "1e"), 5),
    "odd paths too": (TensorProductSpec("2x0e+2x1e", "0e+1e", "0e+1e"), 8),
    "different degrees": (TensorProductSpec("2x0e+2x1o", "0e+1o+2e", "0e+1o+2e"), 14),
    "triples": (ManyBodySpec("3x0e+3x1o", "3x0e+3x1o", 3, 3), 6),
    "quadruples": (ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 4, 3), 6),
    "odd triples": (ManyBodySpec("2x0e+2x1e", "2x0e+2x1e", 3, 3), 8),
}


@pytest.mark.parametrize("name", DECOMPOSED)
@pytest.mark.parametrize("arguments", [{}, {"weights": "degrees", "copies": 2}])
def test_a_decomposition_of_exact_rank_keeps_the_contract(name: str, arguments: dict) -> None:
    spec, rank = DECOMPOSED[name]
    factor = 6.0 if isinstance(spec, ManyBodySpec) else 3.0  # terms are larger than their sum, and so is their rounding
    method = CPDecomposed(rank=rank, **arguments)
    TensorProductContract(method, spec, error=1e-9, float32_factor=factor).check()


@pytest.mark.parametrize("name", ["vectors", "odd paths too", "triples"])
def test_factors_that_are_trained_start_from_the_exact_ones(name: str) -> None:
    spec, rank = DECOMPOSED[name]
    method = CPDecomposed(rank=rank, factors="trainable")
    # Parameters start in float32, as those of any new model.
    tensor_product = TensorProductContract(method, spec, error=1e-6, float32_factor=3.0)
    tensor_product.check()
    plain, index = tensor_product.role.inputs(1, *tensor_product.role.sizes)
    result = tensor_product.role.run(tensor_product.executor, tensor_product.role.plain(plain), index)
    gradients = torch.autograd.grad(result.square().sum(), list(tensor_product.executor.parameters()))
    assert len(gradients) == 3
    assert all(gradient.norm() > 1e-2 for gradient in gradients)


@pytest.mark.parametrize("rank", [6, 7])
def test_a_decomposition_of_lower_rank_errs_by_what_it_states(rank: int) -> None:
    spec, _ = DECOMPOSED["odd paths too"]
    stated = cp_factors(coupling_tensor("0e+1e", "0e+1e", "0e+1e"), rank).error
    measured = TensorProductContract(CPDecomposed(rank=rank), spec, error=3 * stated, float32_factor=10.0).check()
    for name in ("values", "rotations", "first derivative, features"):
        assert 0.3 * stated < measured[name] < 3 * stated
    with pytest.raises(AssertionError, match=r"values: off by .*, allowed is 1\.0e-12"):
        TensorProductContract(CPDecomposed(rank=rank), spec).check_values()


@pytest.mark.parametrize("name", ["vectors", "triples"])
def test_saved_factors_need_not_be_found_again(name: str) -> None:
    spec, rank = DECOMPOSED[name]
    tensor_product = TensorProductContract(CPDecomposed(rank=rank), spec)
    plain, index = tensor_product._inputs(0)
    with factors_to_be_loaded():
        empty = tensor_product._build(tensor_product.method)
    assert tensor_product.role.run(empty, plain, index).isnan().any()
    empty.load_state_dict(tensor_product.executor.state_dict())
    assert torch.equal(
        tensor_product.role.run(empty, plain, index), tensor_product.role.run(tensor_product.executor, plain, index)
    )


def on_a_fine_grid() -> tuple[Tensor, Tensor]:
    """40 Gauss-Legendre latitudes and 80 longitudes, and weights that add to one; independent of :mod:`quadrature`."""
    y, weights = np.polynomial.legendre.leggauss(40)
    alpha = 2 * np.pi * np.arange(80) / 80
    radius = np.sqrt(1 - y**2)[:, None]
    points = np.stack(np.broadcast_arrays(radius * np.sin(alpha), y[:, None], radius * np.cos(alpha)), axis=2)
    return torch.from_numpy(points.reshape(-1, 3)), torch.from_numpy(np.repeat(weights, 80) / 160)


def harmonics(irreps: o3.Irreps, points: Tensor) -> Tensor:
    degrees = [ir.l for _, ir in irreps]
    return o3.spherical_harmonics(degrees, points, normalize=True, normalization="component")


@pytest.mark.parametrize("correlation", [2, 3, 4])
@pytest.mark.parametrize("method", [GauntGrid(), GauntGrid(transform="separable"), GauntFourier()])
def test_gaunts_many_body_product_is_a_power_of_a_function_on_the_sphere(method: Method, correlation: int) -> None:
    irreps = o3.Irreps("1x0e+1x1o+1x2e")
    spec = ManyBodySpec(irreps, irreps, correlation, 1)
    module = method.many_body(spec).double()
    points, measure = on_a_fine_grid()
    torch.manual_seed(0)
    features, factors = torch.randn(4, 9, 1).double(), torch.randn(3).double()
    on_rows = factors.repeat_interleave(torch.tensor([1, 3, 5]))
    values = harmonics(irreps, points) @ (on_rows * features[:, :, 0]).T
    expected = (harmonics(irreps, points).T @ (measure[:, None] * values**correlation)).T
    for n, (nu, k) in enumerate(module.terms):
        weight = torch.zeros(1, module.weight_numel, 1).double()
        column = 3 + 3 + n  # after three linear terms and three factors
        weight[0, 3:6, 0], weight[0, column, 0] = factors, 1 / module.column_scale[column]
        found = module(features, weight, SpeciesGroups(torch.zeros(4, dtype=torch.int64)))[:, :, 0]
        rows = irreps.slices()[k]
        if nu == correlation:
            torch.testing.assert_close(found[:, rows], expected[:, rows], rtol=1e-12, atol=1e-12)
            assert found.norm() == pytest.approx(found[:, rows].norm().item())  # and nothing elsewhere
    assert len(module.terms) == 3 * (correlation - 1)


def gamma(l1: int, l2: int, l3: int) -> float:
    """Strength of a coupling by integration over the fine grid."""
    points, measure = on_a_fine_grid()
    a, b, c = (o3.spherical_harmonics(l, points, True, normalization="component") for l in (l1, l2, l3))
    integral = torch.einsum("g,gi,gj,gk->ijk", measure, a, b, c)
    return (integral * o3.wigner_3j(l1, l2, l3, dtype=torch.float64)).sum().item()


@pytest.mark.parametrize("correlation", [2, 3])
def test_gaunts_many_body_product_is_a_chain_of_couplings(correlation: int) -> None:
    irreps = o3.Irreps("1x0e+1x1o")
    spec = ManyBodySpec(irreps, "1x0e+1x1o+1x2e", correlation, 1)
    module = GauntGrid().many_body(spec).double()
    torch.manual_seed(0)
    features = torch.randn(5, 4, 1).double()
    product = {0: features[:, :1, 0], 1: features[:, 1:, 0]}
    factor = dict(product)
    for _ in range(correlation - 1):
        so_far: dict[int, Tensor] = {}
        for l1, x in product.items():
            for l2, y in factor.items():
                for l3 in range(abs(l1 - l2), l1 + l2 + 1, 2):
                    coupling = gamma(l1, l2, l3) * o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
                    so_far[l3] = so_far.get(l3, 0) + torch.einsum("ijk,ni,nj->nk", coupling, x, y)
        product = so_far
    weight = torch.zeros(1, module.weight_numel, 1).double()
    weight[0, 2:4] = 1
    columns = [4 + n for n, (nu, _) in enumerate(module.terms) if nu == correlation]
    weight[0, columns, 0] = 1 / module.column_scale[columns]
    found = module(features, weight, SpeciesGroups(torch.zeros(5, dtype=torch.int64)))[:, :, 0]
    torch.testing.assert_close(found, torch.cat([product[l] for l in range(3)], 1), rtol=1e-12, atol=1e-12)


class GradientOnly(torch.autograd.Function):
    """The identity with a right first and no second derivative."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient.detach()


class Wrong(torch.nn.Module):
    """A product with one thing changed."""

    def __init__(self, right: torch.nn.Module, change: Callable[..., Tensor]) -> None:
        super().__init__()
        self.right, self.change = right, change
        self.copies, self.weight_numel, self.path_weights = right.copies, right.weight_numel, right.path_weights

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.change(self.right, *inputs)


# Words of the complaint, and what is done to a product and its inputs. Row 1 is the first component of a vector.
FAULTS: dict[str, tuple[str, Callable[..., Tensor]]] = {
    "check_values": (r"values: off by 1\.0e-03", lambda f, *x: 1.001 * f(*x)),
    "check_rotations": ("rotations: off by", lambda f, *x: f(*x) + 0.1 * f(*x) * (torch.arange(16) == 1)[:, None]),
    "check_inversion": ("inversion: off by", lambda f, *x: f(*x) + 0.1 * f(*x)[:, :1]),
    "check_first_derivatives": (
        "first derivative, features: off by",
        lambda f, x, *y: f(x, *y) + 0.1 * f(x - x.detach(), *y),
    ),
    "check_second_derivatives": ("second derivative, edges: off by", lambda f, x, *y: f(GradientOnly.apply(x), *y)),
    "check_pairs": ("pairs: off by", lambda f, *x: f(*x[:-1], getattr(x[-1], "index", x[-1]))),
    "check_dtype": ("with inputs in torch.float64 the result is torch.float32", lambda f, *x: f(*x).float()),
    "check_unit_variance": ("unit variance: off by", lambda f, *x: 1.1 * f(*x)),
    "check_shapes": ("shapes: off by", lambda f, *x: f(*x) + 1e-3),
    "check_moves": ("a detour through float32 gives another result", lambda f, *x: f(*x)),
}


@pytest.mark.parametrize("check", FAULTS)
def test_the_contract_notices(check: str) -> None:
    words, change = FAULTS[check]
    tensor_product = TensorProductContract(GauntGrid(backend="torch"), convolution_of("MACE"))
    getattr(tensor_product, check)()
    tensor_product.executor = tensor_product.role.executor = Wrong(tensor_product.executor, change)
    if check == "check_moves":
        tensor_product.executor.right.algebra.originals.pop("to_out")
        tensor_product._build = lambda _: tensor_product.executor
    with pytest.raises(AssertionError, match=words):
        getattr(tensor_product, check)()


def test_the_contract_notices_a_product_that_is_no_polynomial_of_the_degree() -> None:
    tensor_product = TensorProductContract(GauntGrid(), many_body_of("pairs"))
    right, wrong = tensor_product.executor, ManyBodySpec("3x0e+3x1o+3x2e", "3x0e+3x1o+3x2e", 3, 3)
    assert tensor_product.role.predicted()[0].shape == (20, 9, 3)
    tensor_product.executor = tensor_product.role.executor = tensor_product.role.twin = tensor_product.twin = (
        GauntGrid().many_body(wrong).double()
    )
    assert tensor_product.executor.weight_numel > right.weight_numel
    with pytest.raises(AssertionError, match="polynomial: off by"):
        tensor_product.check_values()


def test_the_example_of_the_contract_works() -> None:
    assert doctest.testmod(tensor_product) == (0, 3)
