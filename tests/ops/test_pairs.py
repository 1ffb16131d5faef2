"""The pair product, both of whose inputs have channels, by every method: the contract, and e3nn's ``uuu``."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

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
    MatrixProduct,
    Method,
    TensorProductSpec,
    from_mul_ir,
    natural_irreps,
    tensor_product,
    to_mul_ir,
)
from equinet.ops.methods.cp import factors_to_be_loaded
from equinet.testing import TensorProductContract

METHODS: dict[str, Method] = {
    "cg": ClebschGordan(),
    "cg, torch": ClebschGordan("torch"),
    "grid": GauntGrid(),
    "grid, torch": GauntGrid(backend="torch"),
    "grid, degrees, two copies": GauntGrid(copies=2, weights="degrees"),
    "grid, degrees, two copies, torch": GauntGrid(copies=2, weights="degrees", backend="torch"),
    "grid, shared weights": GauntGrid(weights="shared"),
    "grid and bracket": GauntGrid(bracket=True),
    "grid and bracket, degrees, torch": GauntGrid(bracket=True, weights="degrees", copies=2, backend="torch"),
    "separable grid": GauntGrid(transform="separable", weights="degrees", backend="torch"),
    "fourier": GauntFourier(backend="torch"),
    "bracket": Bracket(),
    "bracket, torch": Bracket(weights="degrees", backend="torch"),
    "matrix": MatrixProduct(weights="degrees"),
    "matrix, torch": MatrixProduct(weights="shared", backend="torch"),
}
# First input, second input, outputs.
PAIRS = {
    "scalars": ("1x0e", "1x0e", "0e", True),
    "one channel": ("1x0e+1x1o", "1x0e+1x1o", "0e+1o+2e", True),
    "vectors": ("3x0e+3x1o", "3x0e+3x1o", "0e+1o+2e"),
    "up to degree 2": (natural_irreps(2, 2), natural_irreps(2, 2), natural_irreps(2)),
    "unequal degrees": ("5x0e+5x1o", "5x0e+5x1o+5x2e+5x3o", "1o+2e"),
    "missing degrees": ("3x1o+3x3o", "3x2e", "1o+3o"),
    "unsorted and twice": ("2x1o+2x0e+2x1o", "2x2e+2x1o", "1o+0e"),
    "cross product": ("8x1o", "8x1o", "1e"),
    "true and pseudo": ("3x1o+3x2e", "3x0o+3x1e", "0o+1e+2o"),
    "everything": ("3x0e+3x0o+3x1e+3x1o", "3x0e+3x1o+3x1e", "0e+0o+1e+1o"),
}


def pair_of(name: str) -> TensorProductSpec:
    return TensorProductSpec(*PAIRS[name])


# For products whose code is that of exact couplings, of another tensor.
SOME = ("one channel", "vectors", "unsorted and twice", "true and pseudo", "cross product")


def by_tensor(method: Any) -> bool:
    return not isinstance(method, ClebschGordan) and method.backend == "auto"


def why_not(method: Method, spec: TensorProductSpec) -> str | None:
    """The words of the refusal that the mathematics demands."""
    degrees = [spec.irreps_in1[p.i1].ir.l + spec.irreps_in2[p.i2].ir.l + p.out.l for p in spec.paths]
    odd, even = any(n % 2 for n in degrees), any(n % 2 == 0 for n in degrees)
    if isinstance(method, (GauntGrid, GauntFourier)) and odd and not getattr(method, "bracket", False):
        return "has odd l1 + l2 + l3, and pointwise products on the sphere have even paths only"
    if isinstance(method, Bracket) and even:
        return "has even l1 + l2 + l3, and the surface bracket has odd paths only"
    return None


@pytest.mark.parametrize(
    ("method", "name"),
    [(m, n) for m, method in METHODS.items() for n in (SOME if by_tensor(method) else PAIRS)],
)
def test_a_pair_product_keeps_the_contract_or_is_refused(method: str, name: str) -> None:
    spec = pair_of(name)
    words = why_not(METHODS[method], spec)
    if words is None:
        TensorProductContract(METHODS[method], spec).check()
    else:
        with pytest.raises(ValueError, match=re.escape(words)):
            tensor_product(spec, METHODS[method])


@pytest.mark.parametrize("arguments", [{}, {"weights": "degrees", "copies": 2}, {"backend": "torch"}])
@pytest.mark.parametrize(("name", "rank"), [("vectors", 14), ("cross product", 5)])
def test_a_decomposition_of_exact_rank_keeps_the_contract(name: str, rank: int, arguments: dict[str, Any]) -> None:
    method = CPDecomposed(rank=rank, **arguments)
    TensorProductContract(method, pair_of(name), error=1e-9, float32_factor=3.0).check()


def test_saved_factors_need_not_be_found_again() -> None:
    product = TensorProductContract(CPDecomposed(rank=5), pair_of("cross product"))
    plain, _ = product._inputs(0)
    with factors_to_be_loaded():
        empty = product._build(product.method)
    assert empty(*plain).isnan().any()
    empty.load_state_dict(product.executor.state_dict())
    assert torch.equal(empty(*plain), product.executor(*plain))


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (GauntGrid(weights="degrees", copies=2), "vectors"),
        (GauntGrid(bracket=True), "everything"),
        (MatrixProduct(), "everything"),
        (CPDecomposed(rank=9), "vectors"),  # errs, and both forms alike
    ],
)
def test_code_by_the_tensor_and_the_way_through_the_algebra_are_one_function(method: Any, name: str) -> None:
    spec = pair_of(name)
    executors = [replace(method, backend=backend).pair(spec).double() for backend in ("generated", "torch")]
    torch.manual_seed(0)
    x, y = (torch.randn(9, i.dim // spec.channels, spec.channels).double() for i in (spec.irreps_in1, spec.irreps_in2))
    weight = torch.randn(9, executors[0].weight_numel, spec.channels).double()
    torch.testing.assert_close(executors[0](x, y, weight), executors[1](x, y, weight), rtol=1e-11, atol=1e-11)


def test_copies_that_are_no_more_than_one_are_refused() -> None:
    spec, words = (
        pair_of("vectors"),
        '2 of them with weights "filter" are no more than one; take `copies=1`, or `weights="degrees"`',
    )
    assert words in GauntGrid(copies=2).supports(spec)
    with pytest.raises(ValueError, match="a pair product is summed over its copies"):
        GauntGrid(copies=2).pair(spec)


def test_what_reaches_no_output_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot do 8x1o ⊗ 8x1o.*has odd l1"):
        GauntGrid().pair(pair_of("cross product"))


def test_the_product_of_two_vectors_on_the_sphere_is_that_of_two_functions() -> None:
    """Values at points: F(r) = x . r and G(r) = y . r, and of their product the parts of degree 0 and 2."""
    spec = TensorProductSpec("2x1o", "2x1o", "0e+2e")
    product: Any = tensor_product(spec, GauntGrid(weights="shared")).double()
    torch.manual_seed(0)
    x, y, points = torch.randn(4, 3, 2).double(), torch.randn(4, 3, 2).double(), torch.randn(50, 3).double()
    points = points / points.norm(dim=1, keepdim=True)
    values = torch.einsum("gi,nic->gnc", points, x) * torch.einsum("gi,nic->gnc", points, y)
    found = product(x, y, torch.ones(1, 2).double())
    of_0, of_2 = found[:, :1], found[:, 1:]
    degree_2 = torch.einsum("gk,nkc->gnc", o3.spherical_harmonics(2, points, True), of_2)
    total = torch.stack([of_0[:, 0].expand(50, -1, -1), degree_2]).flatten(1)
    # One number for each degree, the same for all rows, channels and points, makes them the function.
    factors = torch.linalg.lstsq(total.T, values.flatten().unsqueeze(1)).solution
    torch.testing.assert_close(total.T @ factors, values.flatten().unsqueeze(1), rtol=1e-10, atol=1e-10)
    assert (factors > 0).all()


def by_e3nn(spec: TensorProductSpec, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """e3nn's ``uuu`` with the same weights, in its own layout and back."""
    outs = o3.Irreps([(spec.channels, out) for out in spec.copies])
    places = list(spec.copies)
    instructions = [(path.i1, path.i2, places.index(path.out), "uuu", True) for path in spec.paths]
    product = o3.TensorProduct(
        spec.irreps_in1,
        spec.irreps_in2,
        outs,
        instructions,
        irrep_normalization="component",
        path_normalization="none",
        shared_weights=weight.dim() == 2,
        internal_weights=False,
    )
    found = product(to_mul_ir(x, spec.irreps_in1), to_mul_ir(y, spec.irreps_in2), weight.flatten(-2))
    return from_mul_ir(found, outs)


@pytest.mark.parametrize("shared", [True, False], ids=["shared weights", "weights of each row"])
@pytest.mark.parametrize("name", [*PAIRS, "up to degree 3"])
@pytest.mark.usefixtures("double_default")
def test_it_is_uuu_of_e3nn_with_the_same_weights(name: str, shared: bool) -> None:
    up_to_3 = natural_irreps(3, 4)
    spec = pair_of(name) if name in PAIRS else TensorProductSpec(up_to_3, up_to_3, up_to_3)
    torch.manual_seed(0)
    x, y = (torch.randn(7, irreps.dim // spec.channels, spec.channels) for irreps in (spec.irreps_in1, spec.irreps_in2))
    product: Any = tensor_product(spec)
    weight = torch.randn(*([] if shared else [7]), product.weight_numel, spec.channels)
    torch.testing.assert_close(product.double()(x, y, weight), by_e3nn(spec, x, y, weight), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("double_default")
def test_of_all_pairs_of_channels_it_is_uvuv() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(5, 4, 2), torch.randn(5, 3, 3)
    spec = TensorProductSpec("6x0e+6x1o", "6x1o", "0e")
    product: Any = tensor_product(spec)
    weight = torch.randn(product.weight_numel, 6)
    found = product.double()(x.repeat_interleave(3, 2), y.repeat(1, 1, 2), weight)
    theirs = o3.TensorProduct("2x1o", "3x1o", "6x0e", [(0, 0, 0, "uvuv", True)], path_normalization="none")
    expected = theirs(to_mul_ir(x[:, 1:], "2x1o"), to_mul_ir(y, "3x1o"), weight.flatten())
    torch.testing.assert_close(found[:, 0], expected, rtol=1e-12, atol=1e-12)


class WithoutPairs:
    """A product of other people, made before there was a third role."""

    def supports(self, spec: object) -> None:
        return None

    def __repr__(self) -> str:
        return "WithoutPairs()"


def test_a_method_without_the_role_refuses_in_words() -> None:
    spec, method = pair_of("vectors"), WithoutPairs()
    with pytest.raises(
        ValueError, match=r"WithoutPairs\(\) cannot do 3x0e\+3x1o ⊗ .*: it has no pair product, in which"
    ):
        tensor_product(spec, method)
    with pytest.raises(AssertionError, match="not supported: it has no pair product"):
        TensorProductContract(method, spec)


def test_a_frame_refuses_a_second_input_with_channels() -> None:
    spec = pair_of("vectors")
    with pytest.raises(ValueError, match="a frame needs a direction, and a second input with channels has as many"):
        tensor_product(spec, SO2())
    with pytest.raises(ValueError, match="a frame needs a direction"):
        SO2().pair(spec)


def test_a_spec_of_the_other_role_is_refused() -> None:
    pair, convolution = pair_of("vectors"), TensorProductSpec("3x0e+3x1o", "0e+1o", "0e+1o")
    for method in METHODS.values():
        with pytest.raises(ValueError, match="is a pair product: its executor is made by `pair` of a method"):
            method.convolution(pair)
        with pytest.raises(ValueError, match="is one with paths kept apart: its executor is made by `convolution`"):
            method.pair(convolution)
