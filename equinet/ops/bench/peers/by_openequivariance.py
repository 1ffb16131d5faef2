"""OpenEquivariance's generated CUDA kernels: product, and convolution with gather and sum fused."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...spec import ManyBodySpec, TensorProductSpec
from .by_e3nn import MulIrBuilt, path_irreps, uvu_instructions


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
        number = np.float64 if dtype == torch.float64 else np.float32
        task = oeq.TPProblem(
            spec.irreps_in1,
            spec.irreps_in2,
            path_irreps(spec),
            uvu_instructions(spec),
            shared_weights=False,
            internal_weights=False,
            irrep_dtype=number,
            weight_dtype=number,
        )
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
