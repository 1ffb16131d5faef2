"""Constants that survive a change of precision, and stay out of what is saved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from equinet.models import MACE, MACEConfig
from equinet.nn import BesselBasis
from equinet.ops import (
    ClebschGordan,
    CPDecomposed,
    GauntGrid,
    ManyBodySpec,
    SphericalHarmonics,
    TensorProductSpec,
    natural_irreps,
)
from equinet.ops.constants import ConstantModule, Float64Buffers

THIRDS = torch.arange(1, 5, dtype=torch.float64) / 3


class Holder(ConstantModule):
    def __init__(self) -> None:
        super().__init__()
        self.register_constant("thirds", THIRDS)
        self.register_constant("indices", torch.tensor([3, 1, 2]))


def test_constants_start_in_single_precision_and_indices_stay_whole() -> None:
    holder = Holder()
    assert holder.thirds.dtype == torch.float32
    assert holder.indices.dtype == torch.int64
    assert holder.double().indices.dtype == torch.int64


def all_kinds() -> list[nn.Module]:
    """Modules with constants, parameters and initial weights, from the same random numbers each time."""
    torch.manual_seed(0)
    product, power = TensorProductSpec("2x0e+2x1o", "0e+1o", "0e+1o"), ManyBodySpec("2x0e+2x1o", "2x0e", 2, 1)
    methods = [ClebschGordan(), CPDecomposed(rank=4), CPDecomposed(rank=4, factors="trainable"), GauntGrid()]
    executors = [method.convolution(product) for method in methods] + [method.many_body(power) for method in methods]
    return [Holder(), *executors, MACE(MACEConfig(channels=2), [1, 8], 5.0)]


def test_the_default_precision_when_a_module_is_built_does_not_matter(in_double) -> None:
    usual = all_kinds()
    with in_double():
        other = all_kinds()
    for one, two in zip(usual, other, strict=True):
        tensors = [{**dict(each.named_parameters()), **dict(each.named_buffers())} for each in (one, two)]
        weights = [each.initial_weight() for each in (one, two) if hasattr(each, "initial_weight")]
        assert {name: value.dtype for name, value in tensors[0].items()} == {
            name: value.dtype for name, value in tensors[1].items()
        }
        assert all(torch.equal(value, tensors[1][name]) for name, value in tensors[0].items())
        assert {each.dtype for each in (*one.parameters(), *weights)} <= {torch.float32}


def test_a_constant_that_is_made_anew_keeps_its_precision() -> None:
    holder = Holder().double()
    holder.register_constant("thirds", 2 * THIRDS)
    assert holder.thirds.dtype == torch.float64
    assert torch.equal(holder.thirds, 2 * THIRDS)


def test_single_and_back_to_double_loses_nothing() -> None:
    holder = Holder().double().float().half().double()
    assert torch.equal(holder.thirds, THIRDS)
    assert not torch.equal(THIRDS.float().double(), THIRDS)  # an ordinary buffer would have lost digits


def test_constants_follow_inside_another_module() -> None:
    outer = nn.Sequential(Holder(), nn.Linear(1, 1)).float().double()
    assert torch.equal(outer[0].thirds, THIRDS)


def test_a_copy_keeps_the_digits_too() -> None:
    copied = copy.deepcopy(Holder().float()).double()
    assert torch.equal(copied.thirds, THIRDS)


def test_changing_a_copy_leaves_the_original_alone() -> None:
    holder = Holder().double()
    copied = copy.deepcopy(holder)
    copied.float()
    assert holder.thirds.dtype == torch.float64
    assert torch.equal(holder.thirds, THIRDS)


@pytest.mark.parametrize("backend", ["generated", "torch", "reference"])
def test_every_operator_is_exact_in_double_after_a_detour_through_single(backend: str) -> None:
    method = ClebschGordan(backend)
    for module in (
        SphericalHarmonics(4),
        method.convolution(TensorProductSpec(natural_irreps(1, 2), natural_irreps(2), natural_irreps(2))),
        method.many_body(ManyBodySpec(natural_irreps(2, 2), natural_irreps(1, 2), 3, 1)),
        BesselBasis(5.0, 8),
    ):
        direct = copy.deepcopy(module).double()
        detour = copy.deepcopy(module).float().bfloat16().double()
        names = [name for name, value in direct.named_buffers() if value.is_floating_point()]
        assert names
        for name in names:
            assert torch.equal(direct.get_buffer(name), detour.get_buffer(name))


class Measured(Float64Buffers):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("thirds", THIRDS.clone())
        self.inner = nn.Linear(1, 1)
        self.nested = Holder()


def test_measured_numbers_stay_in_double_and_are_saved_while_their_children_move() -> None:
    outer = nn.Sequential(Measured(), nn.Linear(1, 1)).float()
    assert torch.equal(outer[0].thirds, THIRDS)
    assert outer[0].inner.weight.dtype == outer[0].nested.thirds.dtype == torch.float32
    assert torch.equal(outer.state_dict()["0.thirds"], THIRDS)
    outer.double()
    assert torch.equal(outer[0].thirds, THIRDS)
    assert outer[0].inner.weight.dtype == torch.float64
    assert torch.equal(outer[0].nested.thirds, THIRDS)
    outer.half()[0].thirds.mul_(2)  # in place, as calibration does
    assert torch.equal(outer.float()[0].thirds, 2 * THIRDS)


def test_constants_are_not_saved() -> None:
    modules = [
        Holder(),
        SphericalHarmonics(3),
        ClebschGordan().convolution(TensorProductSpec("2x0e+2x1o", "0e+1o", "0e+1o")),
        ClebschGordan().many_body(ManyBodySpec("2x0e+2x1o", "2x0e", 2, 1)),
    ]
    assert all(list(module.state_dict()) == [] for module in modules)
