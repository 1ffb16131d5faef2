"""The edge convolution in generated code, as an executor: LLVM on the CPU, Triton on CUDA, matrix products in torch elsewhere."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor, nn

from equinet.ops.edges import Edges, as_edges
from equinet.ops.kernels.choice import KernelChoice, WithKernels, unavailable
from equinet.ops.spec import TensorProductSpec

from .couplings import Couplings, couplings_of, name_of
from .cpu import seconds_to_generate
from .operator import forward
from .reference import EdgeMatrixConvolution, paths_apart

# `backend="auto"` makes no code that takes longer, in seconds (:func:`.cpu.seconds_to_generate`): MACE's convolutions up to degree 3 take
# 3, everything up to degree 4 takes 10, and a product that is used a few times would wait for longer than it computes in torch.
LONGEST = 10.0


def slow_to_generate(couplings: Couplings) -> str | None:
    """Reason why ``backend="auto"`` makes no code for couplings; None if it does."""
    return too_slow(seconds_to_generate(couplings))


def too_slow(seconds: float) -> str | None:
    """Reason why ``backend="auto"`` makes no code that takes so long; None if it does."""
    if seconds <= LONGEST:
        return None
    return f'making its code takes about {seconds:,.0f} s, above {LONGEST:g} s; `backend="generated"` makes it'


def why_not_generated(spec: TensorProductSpec) -> str | None:
    """Reason why ``backend="auto"`` makes no code for ``spec`` here; None if it does."""
    return unavailable() or slow_to_generate(couplings_of(name_of(spec)))


class GeneratedConvolution(WithKernels, nn.Module):
    """Gather, product and sum in one loop: machine code for this processor (:mod:`.cpu`), Triton kernels on CUDA (:mod:`.gpu`).

    Args:
        spec: Specification of the product.
        backend: ``"auto"``: :class:`EdgeMatrixConvolution` computes on other devices and in other precisions than float32 and
            float64. ``"generated"``: a call there raises.

    Raises:
        ValueError: Valueerror in a call, if ``backend`` is ``"generated"`` and there is no kernel for the device or precision.
    """

    def __init__(self, spec: TensorProductSpec, backend: str = "auto") -> None:
        super().__init__()
        self.spec = spec
        self.torch_form = EdgeMatrixConvolution(spec)
        self.copies, self.weight_numel = self.torch_form.copies, self.torch_form.weight_numel
        self.kernels = KernelChoice(backend, product=f"the convolution {spec}")
        self._product = name_of(spec)

    @property
    def couplings(self) -> Couplings:
        """The couplings that the code runs through."""
        return couplings_of(self._product)

    def forward(
        self,
        node_feats: Float[Tensor, "nodes dim channels"],
        edge_attrs: Float[Tensor, "rows harmonics"],
        weight: Float[Tensor, "rows paths channels"],
        edges: Edges | Int[Tensor, "2 rows"],
    ) -> Float[Tensor, "nodes out channels"]:
        if not self.kernels.takes(node_feats):
            result: Tensor = self.torch_form(node_feats, edge_attrs, weight, edges)
            return result
        edges = as_edges(edges, node_feats.shape[0])
        return forward(node_feats, edge_attrs, weight, edges.index, *edges.incoming, edges.mirrored, self._product)

    def path_weights(self, weight: Tensor) -> Tensor:
        return paths_apart(weight)

    def __repr__(self) -> str:
        # On one line: the form in torch has nothing to add.
        return f"{type(self).__name__}({self.spec}; {self.kernel})"
