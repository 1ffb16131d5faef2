"""The pair product by cuequivariance: the same function of the same weights as the formulas."""

from __future__ import annotations

import re

import pytest
import torch

from equinet.ops import ClebschGordan, TensorProductSpec
from equinet.ops.external.cuequivariance import CuEquivariancePair
from equinet.testing import TensorProductContract

pytest.importorskip("cuequivariance_torch", reason="cuequivariance is not installed")

PAIRS = {
    "vectors": ("3x0e+3x1o", "3x0e+3x1o", "0e+1o+2e"),
    "one channel": ("1x0e+1x1o", "1x1o", "0e+1o", True),
    "unsorted": ("2x1o+2x0e", "2x2e+2x1o", "1o+0e"),
    "both kinds": ("2x0e+2x0o+2x1e", "2x0e+2x1o+2x1e", "0e+0o+1e+1o"),
}


@pytest.mark.parametrize("name", PAIRS)
def test_it_keeps_the_contract(name: str) -> None:
    TensorProductContract(ClebschGordan("cuequivariance"), TensorProductSpec(*PAIRS[name])).check()


def test_strided_and_expanded_inputs_are_those_in_order() -> None:
    spec = TensorProductSpec(*PAIRS["vectors"])
    module = ClebschGordan("cuequivariance").pair(spec).double()
    torch.manual_seed(0)
    x, y = torch.randn(5, 3, 4).double().transpose(1, 2), torch.randn(1, 4, 3).double().expand(5, -1, -1)
    weight = torch.randn(3, module.weight_numel).double().T
    assert not any(each.is_contiguous() for each in (x, y, weight))
    expected = module(x.contiguous(), y.contiguous(), weight.contiguous())
    assert torch.equal(module(x, y, weight), expected)


def test_it_says_what_computes_and_where_it_cannot() -> None:
    module = CuEquivariancePair(TensorProductSpec(*PAIRS["vectors"]))
    assert "3x0e+3x1o ⊗ 3x0e+3x1o, 5 paths summed" in repr(module)
    assert "; cuequivariance (on cuda or cpu)" in repr(module)
    x = torch.randn(2, 4, 3, device="meta")
    with pytest.raises(
        ValueError, match=re.escape("cuequivariance runs on cuda and cpu, but the features are on meta")
    ):
        module(x, x, torch.randn(5, 3, device="meta"))
