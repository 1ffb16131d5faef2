"""Degrees to six and beyond, five to seven factors: factorised methods do them, exact couplings say when they are too many."""

from __future__ import annotations

import logging
import re
import threading

import pytest
import torch
from torch import Tensor

from equinet.models import MACE, MACEConfig
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
    SphericalHarmonics,
    TensorProductSpec,
    natural_irreps,
    progress,
    tensor_product,
)
from equinet.ops.analysis.equivariance import equivariance_error
from equinet.ops.methods.factorised import FactorisedMethod
from equinet.ops.methods.reference import executor_of, reference_of
from equinet.ops.progress import building

BOTH = "2x0e+2x0o+2x1o+2x1e"


def values(executor: Tensor, spec: ManyBodySpec) -> tuple[Tensor, Tensor]:
    """Result and its gradient in the features, for the same features and weights whenever they are of the same size."""
    torch.manual_seed(0)
    nodes = torch.randn(3, spec.irreps_in.dim // spec.channels, spec.channels, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(spec.species, executor.weight_numel, spec.channels, dtype=torch.float64)
    result = executor(nodes, weight, SpeciesGroups(torch.tensor([0, 0, 0])))
    return result, torch.autograd.grad(result.square().sum(), nodes)[0]


@pytest.mark.parametrize("correlation", [5, 6, 7])
@pytest.mark.parametrize(
    "method", [GauntGrid(), GauntGrid(transform="separable"), GauntGrid(backend="torch"), GauntFourier(), MatrixProduct()], ids=str
)  # fmt: skip
def test_powers_are_repeated_exact_products(method: FactorisedMethod, correlation: int) -> None:
    spec = ManyBodySpec(natural_irreps(2, 2), natural_irreps(1, 2), correlation, 1)
    assert method.supports(spec) is None
    fast = values(method.many_body(spec).double(), spec)
    slow = values(reference_of(method).many_body(spec).double(), spec)
    for ours, theirs in zip(fast, slow):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.detach().abs().max()))


def test_brackets_of_five_fields_are_repeated_exact_products() -> None:
    spec = ManyBodySpec(BOTH, BOTH, 5, 1)
    fast, slow = (values(Bracket(backend=b).many_body(spec).double(), spec) for b in ("auto", "reference"))
    for ours, theirs in zip(fast, slow):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * float(theirs.detach().abs().max()))


def test_a_power_of_a_function_is_its_values_to_that_power() -> None:
    """Seven factors on the sphere itself: the scalar of the power is the mean of the seventh power of the function."""
    spec = ManyBodySpec(natural_irreps(3, 1), "1x0e", 7, 1)
    product = GauntGrid(backend="torch").power(spec).double()
    torch.manual_seed(1)
    x = torch.randn(1, 16, 1, dtype=torch.float64)
    found = product.chain.products(x, x, 7)[-1]
    directions = torch.nn.functional.normalize(torch.randn(400_000, 3, dtype=torch.float64), dim=1)
    mean = (SphericalHarmonics(3).double()(directions) @ x[0]).pow(7)
    assert abs(found.item() - mean.mean().item()) < 5 * mean.std().item() / 400_000**0.5


@pytest.mark.parametrize("method", [ClebschGordan(), GauntGrid(), GauntFourier(), MatrixProduct(), SO2()], ids=str)
def test_convolutions_of_degree_6_are_equivariant_and_equal_their_reference(method: Method) -> None:
    spec = TensorProductSpec(natural_irreps(6, 2), natural_irreps(6), "0e+1o+6e")
    if isinstance(method, MatrixProduct):  # a few of its paths are missing from degree 5 on
        spec = TensorProductSpec("2x0e+2x1o+2x6e", "0e+1o+6e", "0e+1o+6e")
    executor = executor_of(method, spec).double()
    assert equivariance_error(executor, spec, torch.float64) < 1e-12


@pytest.mark.parametrize("method", [ClebschGordan("torch"), GauntGrid(backend="torch")], ids=str)
def test_outputs_go_to_twice_the_degree_of_the_inputs(method: Method) -> None:
    outputs = natural_irreps(12)
    spec = TensorProductSpec(natural_irreps(6, 2), natural_irreps(6), outputs)
    assert set(spec.paths_per_output) == {ir for _, ir in outputs}
    assert equivariance_error(tensor_product(spec, method).executor.double(), spec, torch.float64) < 1e-12


def test_degrees_above_those_of_e3nn_are_equivariant() -> None:
    spec = TensorProductSpec("2x12e+2x3o", "0e+1o+12e+13o", "0e+1o+14e")
    for method in (ClebschGordan(), GauntGrid(), GauntFourier()):
        assert equivariance_error(executor_of(method, spec).double(), spec, torch.float64) < 1e-12


def test_no_nodes_of_seven_factors_give_no_rows() -> None:
    spec = ManyBodySpec(natural_irreps(6, 2), natural_irreps(1, 2), 7, 1)
    product = GauntGrid().many_body(spec)
    weight = torch.zeros(1, product.weight_numel, 2)
    assert product(torch.zeros(0, 49, 2), weight, SpeciesGroups(torch.zeros(0, dtype=torch.int64))).shape == (0, 4, 2)


def test_exact_couplings_refuse_many_body_products_by_the_number_of_their_terms() -> None:
    spec = ManyBodySpec(natural_irreps(6, 2), natural_irreps(1, 2), 5, 1)
    reason = (
        'it has 4,774 polynomials with 382,745 terms, and exact couplings go up to 50,000; take `many_body = "gaunt_grid"` '
        "(GauntGrid()), which never writes them out, or a lower `correlation` or `sh_degree`"
    )
    assert ClebschGordan().supports(spec) == reason
    with pytest.raises(ValueError, match=re.escape(f"{ClebschGordan()} cannot do {spec}: {reason}")):
        ClebschGordan().many_body(spec)
    assert GauntGrid().supports(spec) is None


def test_exact_couplings_refuse_convolutions_by_the_number_of_their_terms() -> None:
    spec = TensorProductSpec(natural_irreps(12, 2), natural_irreps(12), natural_irreps(12))
    message = (
        r"it has 616 paths with 87,430 terms, and exact couplings go up to 50,000; take `convolution = \"gaunt_grid\"`"
    )
    with pytest.raises(ValueError, match=message):
        tensor_product(spec, ClebschGordan())


def test_a_potential_of_degree_6_and_seven_factors_is_built_on_the_grid_and_refused_by_exact_couplings() -> None:
    config = {"channels": 2, "max_l": 6, "sh_degree": 6, "correlation": 7, "layers": 2, "radial_hidden": (4,)}
    model = MACE(
        MACEConfig(**config, convolution="gaunt_grid", many_body="gaunt_grid"), elements=[1], avg_num_neighbors=4.0
    )
    assert model.layers[0][1].product.spec.correlation == 7
    with pytest.raises(ValueError, match=r"exact couplings go up to 50,000; take `many_body = \"gaunt_grid\"`"):
        MACE(MACEConfig(**config), elements=[1], avg_num_neighbors=4.0)


@pytest.mark.parametrize(("key", "value"), [("max_l", 7), ("sh_degree", 7), ("correlation", 8)])
def test_what_no_method_reaches_is_refused_by_the_configuration(key: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"{key}\n.*less than or equal to {value - 1}"):
        MACEConfig(**{key: value})


def test_cp_of_seven_factors_is_the_exact_tensor_where_it_has_terms_enough() -> None:
    spec = ManyBodySpec("2x0e+2x1o", "2x0e+2x1o", 7, 1)
    fast, slow = (
        values(CPDecomposed(rank=8, backend=b).many_body(spec).double(), spec) for b in ("torch", "reference")
    )
    for ours, theirs in zip(fast, slow):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6 * float(theirs.detach().abs().max()))


def test_what_takes_long_is_said_while_it_is_built(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "LONG", 0.01)
    said = threading.Event()
    monkeypatch.setattr(progress.logger, "info", lambda *_: said.set())
    with building("a tower"), building("its first floor"):
        assert said.wait(5)


def test_what_is_built_quickly_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "equinet"), building("a hut"):
        pass
    assert not caplog.records
