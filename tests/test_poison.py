"""Memory that nobody wrote shows in every test: see ``poison.py``."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

NEW = {
    "empty": lambda like: torch.empty(like.shape, dtype=like.dtype),
    "empty_like": lambda like: torch.empty_like(like),
    "empty_strided": lambda like: torch.empty_strided(like.shape, like.stride(), dtype=like.dtype),
    "new_empty": lambda like: like.new_empty(like.shape),
}


@pytest.mark.parametrize("name", NEW)
def test_what_is_not_filled_holds_no_ordinary_number(name: str) -> None:
    assert NEW[name](torch.zeros(1000)).isnan().all()
    assert NEW[name](torch.zeros(3, dtype=torch.complex128)).isnan().all()
    assert (NEW[name](torch.zeros(3, dtype=torch.int64)) == 2**63 - 1).all()
    assert (NEW[name](torch.zeros(3, dtype=torch.uint8)) == 255).all()
    assert NEW[name](torch.zeros(3, dtype=torch.bool)).all()


def test_a_leaf_may_be_made_that_way() -> None:
    assert torch.empty(3, requires_grad=True).isnan().all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_torchscript_still_knows_these_functions() -> None:
    def zeros(x: Tensor) -> Tensor:
        return torch.empty_like(x).copy_(x)

    assert torch.equal(torch.jit.script(zeros)(torch.ones(3)), torch.ones(3))
