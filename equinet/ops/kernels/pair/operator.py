r"""The pair product as a torch operator: machine code on a CPU, generated kernels on a GPU, closed under differentiation.

One operator is enough: derivatives of the form F(x, y, w, z) of :mod:`.table` in any of its roles. A cotangent v of the derivative in role r
adds to the gradient in role q the derivative of F in q with v in the place of r:

.. math:: \frac{\partial}{\partial q} \Big\langle v, \frac{\partial F}{\partial r} \Big\rangle = \frac{\partial F}{\partial q} \Big|_{r = v}, \qquad q \ne r
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from equinet.ops.codegen import tiles
from equinet.ops.codegen.llvm import compile_function
from equinet.ops.codegen.once import once
from equinet.ops.codegen.operators import Operator, is_needed, register_family, tensors
from equinet.ops.codegen.threads import require, run_in_parts

from . import gpu
from .cpu import CHUNK, PairLoops, seconds_to_generate
from .table import ROLES, operands, table_of

logger = logging.getLogger("equinet")
LONG = 2.0  # seconds above which the wait is announced


def mask_of(wanted: str) -> int:
    """Roles as the argument ``wanted`` of the operator: a bit for each."""
    return sum(1 << ROLES.index(role) for role in wanted)


def roles_of(mask: int) -> str:
    """Roles that are wanted."""
    return "".join(role for n, role in enumerate(ROLES) if mask >> n & 1)


@once
def announce(product: str) -> None:
    """Say that a product's code takes long to make, before it is made; once for each product."""
    seconds = seconds_to_generate(table_of(product))
    if seconds > LONG:
        what = f"the pair product {product}" if " x " in product else "a pair product by its coupling tensor"
        logger.info(
            'making machine code for %s takes about %.0f s in all, once in a process; `backend="torch"` of the tensor product needs none',
            what,
            seconds,
        )


@once
def code_for(product: str, dtype: torch.dtype, shared: bool, wanted: str) -> Any:
    """Machine code of the derivatives in some roles."""
    announce(product)
    return compile_function(PairLoops(table_of(product), dtype, shared).contract(wanted))


def _contract(x: Tensor, y: Tensor, w: Tensor, z: Tensor, product: str, mask: int) -> tuple[Tensor, ...]:
    """Kernel of the operator."""
    table, wanted = table_of(product), roles_of(mask)
    given = dict(zip(ROLES, (x, y, w, z)))
    given = {role: given[role] for role in operands(wanted)}
    rows, shared = len(x), w.dim() == 2
    shapes = {role: (table.sizes[role], table.channels) for role in ROLES}
    require(
        all(
            each.shape == (shapes[role] if shared and role == "w" else (rows, *shapes[role]))
            for role, each in given.items()
        ),
        *given.values(),
    )
    arrays = [each.contiguous() for each in given.values()]
    results = list(_like(x, y, w, z, product, mask))
    places = [ROLES.index(role) for role in wanted]
    on_gpu = tiles.runs_on(x)
    if on_gpu:  # kernels do not write rows without couplings
        for n, role in zip(places, wanted):
            if len(table.rows_with_couplings(role)) < table.sizes[role]:
                results[n].zero_()
    if summed := shared and "w" in wanted:
        sums = gpu.sums_of(product, rows) if on_gpu else -(-rows // CHUNK)
        results[2] = x.new_zeros(sums, *shapes["w"]) if on_gpu else x.new_empty(sums, *shapes["w"])
    if on_gpu:
        gpu.run(product, shared, wanted, arrays, [results[n] for n in places], rows)
    else:
        code = code_for(product, x.dtype, shared, wanted)
        arrays = [torch.tensor([rows], device="cpu"), *arrays, *(results[n] for n in places)]
        run_in_parts(code, sums if summed else rows, arrays, smallest=1 if summed else 32)
    if summed:
        results[2] = results[2].sum(0)
    return tuple(results)


def _like(x: Tensor, y: Tensor, w: Tensor, z: Tensor, product: str, mask: int) -> tuple[Tensor, ...]:
    """Results of the right shapes; what is not wanted is empty."""
    table = table_of(product)
    shapes = [x.shape, y.shape, w.shape, (x.shape[0], table.sizes["z"], table.channels)]
    return tuple(x.new_empty(shape if mask >> n & 1 else 0) for n, shape in enumerate(shapes))


def _differentiate(
    ctx: Any, cotangents: Sequence[Tensor], x: Tensor, y: Tensor, w: Tensor, z: Tensor, product: str, mask: int
) -> list[Tensor | None]:
    needed = "".join(role for n, role in enumerate(ROLES) if is_needed(ctx, n))
    gradients: list[Tensor | None] = [None] * 4
    for role in roles_of(mask):
        n = ROLES.index(role)
        if not (wanted := needed.replace(role, "")):
            continue
        arrays = [x, y, w, z]
        arrays[n] = cotangents[n]
        found = contract(*arrays, product, mask_of(wanted))
        for q in map(ROLES.index, wanted):
            before = gradients[q]
            gradients[q] = found[q] if before is None else before + found[q]
    return gradients


(contract,) = register_family(
    "pair",
    contract=Operator(
        f"(Tensor x, Tensor y, Tensor w, Tensor z, str product, int wanted) -> {tensors(4)}",
        _contract,
        _like,
        _differentiate,
    ),
)


def value(x: Tensor, y: Tensor, w: Tensor, product: str) -> Tensor:
    """The product: the derivative of F in z, on which it does not depend."""
    result: Tensor = contract(x, y, w, x.new_empty(0), product, mask_of("z"))[3]
    return result
