"""Triton's interpreter prepares its language once for a kernel, and computes the same as when it does so for every function called."""

from __future__ import annotations

import pytest
import torch
from interpreting import prepare_once

from equinet.ops import ClebschGordan, TensorProductSpec


def test_the_same_is_computed_and_prepared_less_often(gpu: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    if gpu.type != "cpu":
        pytest.skip("kernels run on the GPU here, not by the interpreter")
    from triton.runtime import interpreter

    product = ClebschGordan().convolution(TensorProductSpec("2x0e+2x1o", "0e+1o", "0e+1o"))
    x, y, weight = torch.randn(3, 4, 2), torch.randn(2, 4), torch.randn(2, product.weight_numel, 2)
    inputs = (x.requires_grad_(), y, weight, torch.tensor([[0, 1], [1, 2]]))
    results, counts = [], []
    stock = getattr(interpreter._patch_lang, "stock", interpreter._patch_lang)
    for change in (False, True):
        prepared: list[object] = []
        with monkeypatch.context() as patch:
            patch.setattr(interpreter, "_patch_lang", lambda f, p=prepared: p.append(f) or stock(f))
            if change:
                prepare_once(patch)
            out = product(*inputs)
            results += [out, *torch.autograd.grad(out.sum(), inputs[0])]
        counts.append(len(prepared))
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])
    assert counts[0] > counts[1] > 0
