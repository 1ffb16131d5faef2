"""The pair product, both of whose inputs have channels, by every method: the contract, and e3nn's ``uuu``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from e3nn import o3
from torch import Tensor

from equinet.ops import (
    SO2,
    ClebschGordan,
    Method,
    TensorProductSpec,
    from_mul_ir,
    natural_irreps,
    tensor_product,
    to_mul_ir,
)
from equinet.testing import TensorProductContract

METHODS: dict[str, Method] = {
    "cg": ClebschGordan(),
    "cg, torch": ClebschGordan("torch"),
    "cg, reference": ClebschGordan("reference"),
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


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("method", METHODS)
def test_a_pair_product_keeps_the_contract(method: str, name: str) -> None:
    TensorProductContract(METHODS[method], pair_of(name)).check()


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
