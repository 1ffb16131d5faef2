"""OpenEquivariance's generated CUDA kernels: product, and convolution with gather and sum fused."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from equinet.ops.external.openequivariance import problem_of
from equinet.ops.spec import ManyBodySpec, TensorProductSpec

from .e3nn import MulIrBuilt


@dataclass(frozen=True)
class OpenEquivariance:
    """``TensorProduct`` and ``TensorProductConv`` (with atomics), which take e3nn's irreps, instructions and layout."""

    kind: str
    device: str
    name: str = "openequivariance"

    @property
    def absent(self) -> str | None:
        if self.kind == "product":
            return "its many-body product is not a finished one yet"
        if self.device != "cuda":
            return "its kernels are for CUDA and HIP, and this is measured on the processor"
        return None if find_spec("openequivariance") else "not installed: pip install openequivariance"

    def build(self, spec: TensorProductSpec | ManyBodySpec, dtype: torch.dtype, device: torch.device) -> MulIrBuilt:
        import openequivariance as oeq

        assert isinstance(spec, TensorProductSpec)
        task = problem_of(spec, dtype, "mul_ir")
        made: dict[str, Any] = {}

        def pairs(x: Tensor, y: Tensor, weight: Tensor, index: Tensor) -> Tensor:
            if "tp" not in made:
                made["tp"] = oeq.TensorProduct(task)
            result: Tensor = made["tp"](x, y, weight)
            return result

        def convolution(x: Tensor, y: Tensor, weight: Tensor, index: Tensor) -> Tensor:
            if "conv" not in made:
                made["conv"] = oeq.TensorProductConv(task, deterministic=False)
            result: Tensor = made["conv"](x, y, weight, index[1], index[0])  # rows receive, columns send
            return result

        return MulIrBuilt(spec, dtype, device, {"tp": pairs, "conv": convolution})
