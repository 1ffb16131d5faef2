"""The pair product in generated code, as an executor: LLVM on the CPU, Triton on CUDA, matrix products in torch elsewhere."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from equinet.ops.kernels.choice import KernelChoice, unavailable
from equinet.ops.kernels.edge.executor import too_slow
from equinet.ops.spec import TensorProductSpec

from .cpu import seconds_to_generate
from .operator import value
from .reference import BatchedPair, ExactPair
from .table import Table, name_of, table_of


def why_not_generated(table: Table) -> str | None:
    """Reason why ``backend="auto"`` makes no code for a table here; None if it does."""
    return unavailable() or too_slow(seconds_to_generate(table))


class GeneratedPair(ExactPair):
    """Couplings one by one in a single pass: machine code for this processor (:mod:`.cpu`), Triton kernels on CUDA (:mod:`.gpu`).

    Args:
        spec: Specification of the product.
        backend: ``"auto"``: :class:`BatchedPair` computes on other devices and in other precisions than float32 and
            float64. ``"generated"``: a call there raises.

    Raises:
        ValueError: Valueerror in a call, if ``backend`` is ``"generated"`` and there is no kernel for the device or precision.
    """

    def __init__(self, spec: TensorProductSpec, backend: str = "auto") -> None:
        super().__init__(spec)
        self.torch_form = BatchedPair(spec)
        self.kernels = KernelChoice(backend, product=f"the pair product {spec}")
        self._product = name_of(spec)

    @property
    def table(self) -> Table:
        """The couplings that the code runs through."""
        return table_of(self._product)

    def forward(
        self,
        x: Float[Tensor, "rows dim1 channels"],
        y: Float[Tensor, "rows dim2 channels"],
        weight: Float[Tensor, "*rows_or_none weights channels"],
    ) -> Float[Tensor, "rows out channels"]:
        if not self.kernels.takes(x):
            result: Tensor = self.torch_form(x, y, weight)
            return result
        return value(x, y, weight, self._product)

    def __repr__(self) -> str:
        # On one line: the form in torch has nothing to add.
        return f"{type(self).__name__}({self.spec}; {self.kernel})"
