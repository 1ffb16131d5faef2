"""Methods by name: what a configuration says and back, what is refused and in which words, and products without a graph."""

from __future__ import annotations

import dataclasses
import doctest
from typing import Any

import pytest
import torch

import equinet.ops
from equinet.ops import (
    METHODS,
    SO2,
    Bracket,
    ClebschGordan,
    CPDecomposed,
    GauntFourier,
    GauntGrid,
    ManyBodySpec,
    MatrixProduct,
    Method,
    TensorProductSpec,
    method_from_config,
    method_to_config,
    tensor_product,
)
from equinet.ops.methods import registry
from equinet.ops.methods import tensor_product as products

# A method and all that a configuration has to say to get it.
CONFIGURATIONS: list[tuple[Method, str | dict[str, Any]]] = [
    (ClebschGordan(), "cg"),
    (GauntGrid(), "gaunt_grid"),
    (GauntFourier(), "gaunt_fourier"),
    (Bracket(), "bracket"),
    (MatrixProduct(), "matrix"),
    (SO2(), "so2"),
    (GauntGrid(copies=2, weights="degrees"), {"method": "gaunt_grid", "copies": 2, "weights": "degrees"}),
    (GauntGrid(bracket=True), {"method": "gaunt_grid", "bracket": True}),
    (GauntGrid(transform="separable"), {"method": "gaunt_grid", "transform": "separable"}),
    (GauntFourier(weights="shared"), {"method": "gaunt_fourier", "weights": "shared"}),
    (Bracket(copies=3), {"method": "bracket", "copies": 3}),
    (MatrixProduct(copies=2), {"method": "matrix", "copies": 2}),
    (CPDecomposed(rank=24), {"method": "cp", "rank": 24}),
    (CPDecomposed(rank=8, factors="trainable"), {"method": "cp", "rank": 8, "factors": "trainable"}),
]
ONE_OF_EACH: list[Method] = [
    ClebschGordan(),
    GauntGrid(),
    GauntFourier(),
    Bracket(),
    MatrixProduct(),
    CPDecomposed(rank=24),
    SO2(),
]


@pytest.mark.parametrize(("method", "configuration"), CONFIGURATIONS)
def test_a_method_and_its_configuration_are_the_same(method: Method, configuration: str | dict[str, Any]) -> None:
    assert method_to_config(method) == configuration
    made = method_from_config(configuration)
    assert made == method
    assert type(made) is type(method)
    assert hash(made) == hash(method)


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_a_table_with_a_name_alone_or_with_default_arguments_is_the_name(method: Method) -> None:
    name = next(name for name, kind in METHODS.items() if type(method) is kind)
    defaults = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}  # type: ignore[arg-type]
    assert method_from_config({"method": name, **defaults}) == method
    assert method_from_config(method) is method


def test_every_method_has_a_name_and_no_method_two() -> None:
    assert {type(method) for method in ONE_OF_EACH} == set(METHODS.values())
    assert len(set(METHODS.values())) == len(METHODS) == 7
    assert list(METHODS) == ["cg", "gaunt_grid", "gaunt_fourier", "bracket", "matrix", "cp", "so2"]
    assert {kind.__name__ for kind in METHODS.values()} <= set(equinet.ops.__all__)


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_the_backend_is_an_argument_and_no_part_of_what_is_saved(method: Method) -> None:
    reference = dataclasses.replace(method, backend="reference")  # type: ignore[type-var]
    assert reference != method
    assert method_to_config(reference) == method_to_config(method)


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_methods_are_values(method: Method) -> None:
    assert method == dataclasses.replace(method)  # type: ignore[type-var]
    assert {method: 1}[dataclasses.replace(method)] == 1  # type: ignore[type-var]
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.backend = "reference"  # type: ignore[attr-defined]
    assert sum(method == other for other in ONE_OF_EACH) == 1


def test_arguments_distinguish_methods() -> None:
    methods = [method for method, _ in CONFIGURATIONS]
    assert len(set(methods)) == len(methods)
    assert GauntGrid(weights="shared") != GauntFourier(weights="shared")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "gaunt",
            r"there is no tensor product called 'gaunt'; did you mean 'gaunt_grid'\? Choose one of: cg, gaunt_grid, gaunt_fourier, ",
        ),
        ({"method": "CG"}, r"there is no tensor product called 'CG'; did you mean 'cg'\? Choose one of: .*, cp, so2$"),
        (3, r"a tensor product is a name or a table such as .* got 3; the names are cg, gaunt_grid"),
        (None, "a tensor product is a name or a table such as .* got None"),
        ({"rank": 24}, r"a tensor product is a name or a table .* got \{'rank': 24\}"),
        ({"method": 1}, r"a tensor product is a name or a table .* got \{'method': 1\}"),
        ({"method": "gaunt_grid", "copys": 2}, "'gaunt_grid' has no argument `copys`; did you mean `copies`?"),
        ({"method": "cp", "rank": 8, "factor": "als"}, "'cp' has no argument `factor`; did you mean `factors`?"),
        ({"method": "so2", "copies": 2}, "'so2' has no argument `copies`; did you mean `backend`?"),
        ({"method": "gaunt_fourier", "bracket": True}, "'gaunt_fourier' has no argument `bracket`; did you mean `"),
        ("cp", r"'cp' needs `rank`, as in \{ method = \"cp\", rank = 24 \}"),
        ({"method": "cp", "factors": "als"}, r"'cp' needs `rank`, as in"),
        ({"method": "cp", "rank": 0}, "`rank` must be a whole number from 1 to 256, got 0"),
        ({"method": "cp", "rank": 8.0}, r"`rank` must be a whole number from 1 to 256, got 8\.0"),
        ({"method": "cp", "rank": 8, "factors": "trained"}, "`factors` must be one of als, trainable, got 'trained'"),
        (
            {"method": "gaunt_grid", "transform": "fast"},
            "`transform` must be one of auto, dense, separable, got 'fast'",
        ),
        ({"method": "gaunt_grid", "bracket": 1}, "`bracket` must be true or false, got 1"),
        ({"method": "so2", "backend": "cuda"}, "`backend` must be auto, torch or reference, got 'cuda'"),
        ({"method": "cg", "backend": "cuda"}, "`backend` must be auto, generated, torch or reference, got 'cuda'"),
        *(
            ({"method": name, **needed, **bad}, message)
            for name, needed in {
                "gaunt_grid": {},
                "gaunt_fourier": {},
                "bracket": {},
                "matrix": {},
                "cp": {"rank": 8},
            }.items()
            for bad, message in (
                ({"copies": 0}, "`copies` must be a whole number from 1 to 64, got 0"),
                ({"copies": 1.5}, r"`copies` must be a whole number from 1 to 64, got 1\.5"),
                ({"copies": True}, "`copies` must be a whole number from 1 to 64, got True"),
                ({"weights": "all"}, "`weights` must be one of shared, filter, degrees, got 'all'"),
                ({"backend": "cuda"}, "`backend` must be one of auto, generated, torch, reference, got 'cuda'"),
            )
        ),
    ],
)
def test_what_means_nothing_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        method_from_config(value)


@pytest.mark.parametrize(
    ("method", "spec", "reason"),
    [
        (GauntGrid(), ("2x1o", "1o", "0e+1e"), "1o x 1o -> 1e has odd l1 + l2 + l3, and pointwise products on the sphere have even "
         "paths only; GauntGrid(bracket=True) (`bracket = true`) has both"),
        (GauntFourier(), ("2x2e", "1o", "2o"), "2e x 1o -> 2o has odd l1 + l2 + l3, and pointwise products on the sphere have even "
         "paths only; GauntGrid(bracket=True) (`bracket = true`) has both"),
        (Bracket(), ("2x1o", "1o", "0e+1e"), "1o x 1o -> 0e has even l1 + l2 + l3, and the surface bracket has odd paths only; "
         "GauntGrid(bracket=True) (`bracket = true`) has both"),
        (MatrixProduct(), ("2x3o", "5o", "5e"), "the 6j symbol of 3o x 5o -> 5e vanishes at this size of matrix; ClebschGordan() has "
         "every path"),
        (SO2(), ("2x1o", "1e", "0o"), "`irreps_in2` must be spherical harmonics of one direction, each degree at most once and with "
         "parity (-1)^l (0e, 1o, 2e, ...), got 1x1e"),
        (SO2(), ("2x2e", "2e", "0e"), "`irreps_in2` must contain 1o, from which the direction of the edge is read, got 1x2e"),
    ],
)  # fmt: skip
def test_a_convolution_that_cannot_be_done_is_refused_in_words(
    method: Method, spec: tuple[str, str, str], reason: str
) -> None:
    asked = TensorProductSpec(*spec)
    assert method.supports(asked) == reason
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        tensor_product(asked, method)
    assert str(caught.value) == f"{method} cannot do {asked}: {reason}"


@pytest.mark.parametrize("method", [ClebschGordan(), GauntGrid(bracket=True), CPDecomposed(rank=8), SO2()])
def test_methods_with_all_paths_do_what_others_refuse(method: Method) -> None:
    assert method.supports(TensorProductSpec("2x1o", "1o", "0e+1e")) is None


@pytest.mark.parametrize(
    ("method", "spec", "reason"),
    [
        (GauntGrid(), ("2x1o", "2x1e", 2), "all its products of 2x1o with themselves vanish, or none is one of 2x1e"),
        (GauntGrid(), ("2x0e+2x1o", "2x0e+2x1o+2x1e", 3), "none of its products of up to 3 factors of 2x0e+2x1o is 1e"),
        (Bracket(), ("2x0e+2x1o", "2x0e+2x1o", 3), "all its products of 2x0e+2x1o with themselves vanish, or none is one of "
         "2x0e+2x1o"),
        (Bracket(), ("2x1o+2x2e", "2x0o+2x2o", 2), "none of its products of up to 2 factors of 2x1o+2x2e is 0o"),
        (MatrixProduct(), ("2x0e", "2x0e+2x1o", 2), "none of its products of up to 2 factors of 2x0e is 1o"),
        (SO2(), ("2x0e", "2x0e", 2), "a frame needs a direction, and features multiplied with themselves have none"),
    ],
)  # fmt: skip
def test_a_many_body_product_that_cannot_be_done_is_refused_in_words(
    method: Method, spec: tuple[str, str, int], reason: str
) -> None:
    assert method.supports(ManyBodySpec(*spec, species=1)) == reason


def test_a_frame_makes_no_many_body_product() -> None:
    spec = ManyBodySpec("2x0e+2x1o", "2x0e", 2, 1)
    assert SO2().reached(spec) == set()
    with pytest.raises(ValueError, match="a frame needs a direction"):
        SO2().many_body(spec)


def test_what_is_reached_is_what_is_not_zero() -> None:
    spec = ManyBodySpec("2x0e+2x1o", "2x0e+2x1o+2x1e+2x2e", 3, 1)
    reached = {str(method): sorted(map(str, method.reached(spec))) for method in ONE_OF_EACH}
    natural = ["0e", "1o", "2e"]
    # Two vectors in two weightings are parallel: their cross product is zero, whatever the method.
    expected = dict.fromkeys(reached, natural) | {str(SO2()): [], str(Bracket()): ["0e", "1o"]}
    assert reached == expected


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_a_product_without_a_graph_is_the_convolution_pair_by_pair(method: Method) -> None:
    spec = TensorProductSpec("3x1o+3x2e", "1o+2e", "1e+2o") if isinstance(method, Bracket) else None
    spec = spec or TensorProductSpec("3x0e+3x1o", "0e+1o", "0e+1o")
    product = tensor_product(spec, method).double()
    torch.manual_seed(0)
    x = torch.randn(4, spec.irreps_in1.dim // 3, 3).double()
    y, weight = torch.randn(4, spec.irreps_in2.dim).double(), torch.randn(4, product.weight_numel, 3).double()
    y[:, -3:] *= 3**0.5 / y[:, -3:].norm(dim=1, keepdim=True)  # 1o of a direction, where it is last
    result = product(x, y, weight)
    assert result.shape == (4, sum(ir.dim * n for ir, n in product.copies.items()), 3)
    assert result.abs().min() > 0
    for n in range(4):
        alone = product.executor(x[n : n + 1], y[n : n + 1], weight[n : n + 1], torch.zeros(2, 1, dtype=torch.int64))
        torch.testing.assert_close(alone[0], result[n], rtol=1e-13, atol=1e-13)


def test_without_a_method_a_product_has_exact_couplings() -> None:
    spec = TensorProductSpec("1x1o", "1o", "1e")
    product = tensor_product(spec)
    assert type(product.executor) is type(ClebschGordan().convolution(spec))
    a, b = torch.tensor([[[1.0], [0.0], [0.0]]]), torch.tensor([[0.0, 1.0, 0.0]])
    torch.testing.assert_close(product(a, b, torch.full((1, 1, 1), 2**0.5))[0, :, 0], torch.tensor([0.0, 0.0, 1.0]))


def test_examples_of_the_documentation_work() -> None:
    torch.manual_seed(0)
    found = [doctest.testmod(module) for module in (registry, products)]
    assert sum(each.attempted for each in found) >= 4
    assert sum(each.failed for each in found) == 0
