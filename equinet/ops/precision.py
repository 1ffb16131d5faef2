r"""Arithmetic of matrix products: IEEE float32 unless a coarser one is chosen explicitly.

Torch has switches for the whole process that let products of float32 matrices be computed in TF32 or bfloat16, and any library
may have turned them. :func:`full_float32` puts them right for a block; :func:`matmul_precision` is the choice of whoever knows
what it costs, and holds for the products of :func:`matmul`: radial network, mixing of channels, readout. Tensor products stay
in float32 whatever is chosen.

=========  ========================================================================  ======================
choice     what is multiplied; sums are in float32                                   where
=========  ========================================================================  ======================
``ieee``   float32                                                                   everywhere
``tf32``   rounded to 11 significant bits                                            CUDA, Ampere and later
``bf16``   rounded to 8 significant bits; inference only                             the same; a CPU imitates it
=========  ========================================================================  ======================
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import Function

Precision = Literal["ieee", "tf32", "bf16"]

_current = threading.local()

# How many blocks, of all threads, keep torch's products exact on a kind of device, and its switch before the first of them.
_counting = threading.Lock()
_exact: dict[str, tuple[int, str]] = {}


def chosen() -> Precision:
    """Precision chosen in this thread."""
    return getattr(_current, "precision", "ieee")


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """Let :func:`matmul` compute in ``precision`` within the block, and derivatives of what it computed there ever after."""
    before = chosen()
    _current.precision = precision
    try:
        yield
    finally:
        _current.precision = before


def require_available(precision: str, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a choice that cannot be had.

    Raises:
        ValueError: If there is no such ``precision``, ``dtype`` is not float32, or ``device`` has no such arithmetic.
    """
    if precision not in get_args(Precision):
        raise ValueError(f"`matmul` must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    if precision == "ieee":
        return
    if dtype != torch.float32:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(
            f'`matmul` "{precision}" coarsens products of float32, but the precision is {name}; take float32, or "ieee"'
        )
    if device.type == "cuda":
        found = torch.cuda.get_device_capability(device)
        if found < (8, 0):
            what = f"a GPU of compute capability 8.0 or higher, and {device} has {found[0]}.{found[1]}"
            raise ValueError(f'`matmul` "{precision}" needs {what}; take "ieee"')
    elif precision == "tf32":
        raise ValueError(
            f'`matmul` "tf32" needs a GPU of compute capability 8.0 or higher, and the device is {device}; take "ieee"'
        )


def matmul(a: Float[Tensor, "rows depth"], b: Float[Tensor, "depth columns"]) -> Float[Tensor, "rows columns"]:
    """``a @ b`` in the chosen precision; differentiable to any order, each derivative in the same.

    Args:
        a: Features.
        b: Weights.

    Raises:
        ValueError: If other than ``ieee`` is chosen and the matrices are not float32, or ``bf16`` is and ``b`` is being trained.
    """
    precision = chosen()
    if precision == "ieee":
        return a @ b
    if a.dtype != torch.float32:
        raise ValueError(f'`matmul` "{precision}" coarsens products of float32, and got {a.dtype}')
    if precision == "bf16" and b.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            '`matmul` "bf16" is for inference: trained in it, weights get worse. Train in "ieee", or freeze the weights '
            "(`potential.requires_grad_(False)`)"
        )
    return _Coarse.apply(precision, a, b)


def affine(
    a: Float[Tensor, "rows depth"], weight: Float[Tensor, "columns depth"], bias: Float[Tensor, " columns"]
) -> Float[Tensor, "rows columns"]:
    """``a @ weight.T + bias``, likewise."""
    return torch.nn.functional.linear(a, weight, bias) if chosen() == "ieee" else matmul(a, weight.T) + bias


class _Coarse(Function):
    """A product and its derivatives, which are products of the same kind.

    A GPU differentiates in another thread than that of the choice, so the choice is kept here.
    """

    @staticmethod
    def forward(ctx: Any, precision: Precision, a: Tensor, b: Tensor) -> Tensor:
        ctx.precision = precision
        ctx.save_for_backward(a, b)
        if precision == "tf32":
            with _in_tf32(a.device):
                return a @ b
        a, b = a.bfloat16(), b.bfloat16()
        # On a CPU torch would round the result too; products of eight bits are exact in float32.
        return torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,), (a, b) = grads, ctx.saved_tensors
        da = _Coarse.apply(ctx.precision, g, b.T) if ctx.needs_input_grad[1] else None
        db = _Coarse.apply(ctx.precision, a.T, g) if ctx.needs_input_grad[2] else None
        return None, da, db


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Let torch's own products of float32 on ``device`` be float32 within the block, whatever its switches say.

    They belong to the process, not to a thread: what other threads compute meanwhile is as exact, and the last of several blocks
    in several threads puts them back.
    """
    with _counting:
        users, before = _exact.get(device.type, (0, ""))
        if not users:
            before = _switch(device)
            # "none" is how torch says that nobody has chosen; then it is float32.
            if before not in ("ieee", "none", "highest"):
                _turn(device, "ieee")
        _exact[device.type] = users + 1, before
    try:
        yield
    finally:
        with _counting:
            users, before = _exact[device.type]
            _exact[device.type] = users - 1, before
            if users == 1 and before not in ("ieee", "none", "highest"):
                _turn(device, before)


@contextmanager
def _in_tf32(device: torch.device) -> Iterator[None]:
    """Turn the switch for as long as a product takes to start. Another thread that starts one at that moment gets TF32 too."""
    before = _switch(device)
    _turn(device, "tf32")
    try:
        yield
    finally:
        _turn(device, before)


def _switch(device: torch.device) -> str:
    """State of torch's switch for matrix products on a device; since torch 2.9 there is one for each kind of device."""
    owner = _owner(device)
    return torch.get_float32_matmul_precision() if owner is None else owner.fp32_precision


def _turn(device: torch.device, to: str) -> None:
    owner = _owner(device)
    if owner is None:
        torch.set_float32_matmul_precision({"ieee": "highest", "tf32": "high"}.get(to, to))
    else:
        owner.fp32_precision = to


def _owner(device: torch.device) -> Any:
    library = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    owner = getattr(library, "matmul", None)
    return owner if hasattr(owner, "fp32_precision") else None


@contextmanager
def formulas() -> Iterator[None]:
    """Compute everything in torch's operations within the block, nothing in machine code of ours: to compare the two."""
    before = formulas_only()
    _current.formulas = True
    try:
        yield
    finally:
        _current.formulas = before


def formulas_only() -> bool:
    """True if generated code is switched off in this thread."""
    return getattr(_current, "formulas", False)
