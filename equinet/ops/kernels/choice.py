"""Choice between generated kernels and torch: the rule, its description in ``repr``, and the refusal of what cannot be met.

An executor is made of parts: machine code for the CPU (LLVM), kernels for CUDA (Triton), and a form in torch for every other device
and precision. Its :class:`KernelChoice` says which part computes:

========================  ==========================================  ====================================
``backend``               a generated kernel for device and dtype     none
========================  ==========================================  ====================================
``"auto"``                computes                                    torch computes; ``repr`` says why
``"generated"``           computes                                    ValueError, with the reason
``"torch"``               torch computes                              torch computes
``"reference"``           the formulas compute, term by term          the formulas compute, term by term
========================  ==========================================  ====================================

Within :func:`equinet.ops.precision.formulas` torch computes, whatever ``backend`` is: that block asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from equinet.ops.codegen import llvm, tiles
from equinet.ops.precision import formulas_only


def unavailable() -> str | None:
    """Reasons why neither LLVM nor Triton can generate code here; None if one of them can."""
    reasons = [llvm.unavailable(), tiles.unavailable()]
    return None if None in reasons else "; ".join(map(str, reasons))


@dataclass(frozen=True)
class KernelChoice:
    """Generated kernels of one executor, and what a call does where there is none.

    Attributes:
        backend: ``"auto"``, ``"generated"``, ``"torch"`` or ``"reference"``: the request that the executor was built for.
        cpu: Reason why this product has no machine code for the CPU; None if it has.
        cuda: Reason why this product has no Triton kernels; None if it has.
        product: Name of the product in errors.
    """

    backend: str
    cpu: str | None = None
    cuda: str | None = None
    product: str = "this product"

    def takes(self, *tensors: Tensor) -> bool:
        """Tell whether a generated kernel computes with ``tensors``; if not, torch does.

        Raises:
            ValueError: If generated kernels are requested and there are none for this device or precision.
        """
        if tiles.runs_on(*tensors):
            missing = self.cuda
        elif llvm.runs_on(tensors[0]):
            missing = self.cpu
        else:
            missing = ""  # `missing_on` finds the words
        if missing is None:
            return True
        if self.backend == "generated" and not formulas_only():
            raise ValueError(self._refusal(tensors[0].device, tensors[0].dtype))
        return False

    def missing_on(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Reason why no generated kernel computes on a device in a precision; None if one does."""
        if dtype not in llvm.DTYPES:
            return "generated kernels compute in float32 and float64"
        if device.type == "cuda" or (device.type == "cpu" and tiles.interpreting()):
            return self.cuda or tiles.unavailable()
        if device.type == "cpu":
            return self.cpu or llvm.unavailable()
        return "generated kernels are for CPU and CUDA"

    def refusal(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Message of the error that a call on a device in a precision raises; None if it computes."""
        if self.backend != "generated" or self.missing_on(device, dtype) is None:
            return None
        return self._refusal(device, dtype)

    def require_any(self) -> None:
        """Refuse a request for generated kernels that no device can meet.

        Raises:
            ValueError: If generated kernels are requested and there are none, neither for the CPU nor for CUDA.
        """
        missing = {type: self.missing_on(torch.device(type), torch.float32) for type in ("cpu", "cuda")}
        if self.backend == "generated" and None not in missing.values():
            reasons = "; ".join(f"on {type}, {reason}" for type, reason in missing.items())
            raise ValueError(f'`backend` "generated" has no kernel for {self.product}: {reasons}; {REMEDY}')

    def describe(self, device: torch.device, dtype: torch.dtype, channels: int) -> str:
        """Kernel that computes on a device in a precision, and the reason if it is not a generated one; one line."""
        if self.backend in ("torch", "reference"):
            return self.backend
        reason = self.missing_on(device, dtype)
        if reason is not None:
            return f"{'refused' if self.backend == 'generated' else 'torch'} ({reason})"
        if device.type == "cpu" and not tiles.interpreting():
            lanes = llvm.lanes_for(channels, dtype)
            return f"generated (LLVM, {lanes} lane{'s' if lanes > 1 else ''})"
        return "generated (Triton)"

    def _refusal(self, device: torch.device, dtype: torch.dtype) -> str:
        where = f"on {device} in {str(dtype).removeprefix('torch.')}"
        return f'`backend` "generated" has no kernel for {self.product} {where}: {self.missing_on(device, dtype)}; {REMEDY}'


def slow_on(device: torch.device, dtype: torch.dtype) -> str | None:
    """Warning that a device has no generated kernels in a precision, and why; None if it has."""
    reason = KernelChoice("auto").missing_on(device, dtype)
    return None if reason is None else f"torch computes in place of generated kernels, several times slower: {reason}"


REMEDY = 'take `backend="auto"`, which computes in torch there, or "torch"'
TORCH, REFERENCE = KernelChoice("torch", "", ""), KernelChoice("reference", "", "")


class WithKernels:
    """Mixin of executors: the property ``kernel`` names what computes where the constants of the module are now."""

    kernels: KernelChoice = TORCH
    spec: Any

    @property
    def kernel(self) -> str:
        """Device, precision and kernel, and the reason if no generated kernel computes: ``cpu float32: generated (LLVM, 16 lanes)``."""
        device, dtype = place_of(self)  # type: ignore[arg-type]  # a mixin of modules
        name = f"{device.type} {str(dtype).removeprefix('torch.')}"
        return f"{name}: {self.kernels.describe(device, dtype, self.spec.channels)}"


def place_of(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and precision of an executor: those of its first floating-point constant."""
    first = next(each for each in chain(module.buffers(), module.parameters()) if each.is_floating_point())
    return first.device, first.dtype


def describe_executor(executor: nn.Module) -> str:
    """Class of an executor and the kernel that computes: ``GeneratedConvolution, cpu float32: generated (LLVM, 16 lanes)``.

    Executors of other people without the property ``kernel`` are described by their class alone.
    """
    kernel = getattr(executor, "kernel", None)
    return type(executor).__name__ + (f", {kernel}" if kernel else "")


def spaces_of(executor: nn.Module) -> list[str]:
    """Spaces in which an executor multiplies, such as the points of a sphere; none for exact couplings."""
    return [repr(part) for part in executor.modules() if getattr(part, "is_space", False)]


def refusal_of(executor: nn.Module) -> str | None:
    """Message of the error that a call of an executor raises where its constants are now; None if a kernel computes."""
    for part in executor.modules():
        choice: KernelChoice | None = part.kernels if isinstance(part, WithKernels) else None
        if choice is not None and choice.backend == "generated" and (reason := choice.refusal(*place_of(part))):
            return reason
    return None
