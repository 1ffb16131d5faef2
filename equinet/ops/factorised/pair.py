"""The pair product of every factorised method, over any :mod:`algebra`: both inputs go there with all their channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from e3nn import o3
from jaxtyping import Float
from torch import Tensor, nn

from equinet.ops.constants import ConstantModule
from equinet.ops.kernels.choice import TORCH, KernelChoice, WithKernels, unavailable
from equinet.ops.kernels.edge.executor import too_slow
from equinet.ops.kernels.pair.cpu import ENTRIES_OF_A_LOOP, SECONDS, seconds_to_generate
from equinet.ops.kernels.pair.operator import value
from equinet.ops.kernels.pair.table import Table, remember
from equinet.ops.spec import TensorProductSpec

from .algebra import Algebra
from .convolution import RadialWeights, strengths_of
from .generated import TensorCode, look_again
from .generated_convolution import MANY_ENTRIES


class FactorisedPair(WithKernels, ConstantModule):
    r"""Both inputs taken to an algebra, multiplied there, and taken back.

    .. math:: z = \sum_r c^{r} \; \mathrm{back} \big( \mathrm{left}(a^{r} x) * \mathrm{right}(b^{r} y) \big),
              \qquad r = 1 \ldots \mathrm{copies}

    Weights, per channel: ``"shared"``: one number for all paths; ``"filter"``: one per irrep of the second input, b; ``"degrees"``: one
    per irrep of all three, a, b and c, of every copy. The result is the sum of the copies, so with ``"shared"`` and ``"filter"`` more than
    one are no more than one.

    That is its form in torch. With generated code it computes the same by the entries of the algebra's tensor, where the sum over
    copies is made of weights, before the product.

    Args:
        spec: Couplings asked for.
        algebra: Product from ``irreps_in1`` and ``irreps_in2`` to ``outputs``.
        outputs: The distinct outputs of ``spec`` that the algebra reaches, in order; rows of others are zero.
        weights: See above.
        copies: R, the rank of the family of path weights.
        kernels: Choice between torch and generated code.
        generate: True if there is to be generated code.

    Raises:
        ValueError: If code is to be generated and the constants of ``algebra`` are trained, which code does not see. In a call,
            if ``kernels`` demands generated code and there is none for the device or precision.
    """

    initial_scale: Tensor
    of_first: Tensor
    of_second: Tensor
    of_out: Tensor
    _rows: Tensor

    def __init__(
        self,
        spec: TensorProductSpec,
        algebra: Algebra,
        outputs: o3.Irreps,
        *,
        weights: RadialWeights,
        copies: int,
        kernels: KernelChoice = TORCH,
        generate: bool = False,
    ) -> None:
        super().__init__()
        self.spec, self.algebra, self.weights, self.rank, self.kernels = spec, algebra, weights, copies, kernels
        self.outputs = [out for _, out in outputs]
        ones, twos = len(spec.irreps_in1), len(spec.irreps_in2)
        self._parts = {"shared": (0, 1, 0), "filter": (0, twos, 0), "degrees": (ones, twos, len(outputs))}[weights]
        self.weight_numel = copies * sum(self._parts)
        self.register_constant("initial_scale", torch.ones(self.weight_numel, dtype=torch.float64))
        # The weight of each row of the three arrays.
        for name, irreps in (("of_first", spec.irreps_in1), ("of_second", spec.irreps_in2), ("of_out", outputs)):
            self.register_constant(name, torch.tensor([n for n, (_, ir) in enumerate(irreps) for _ in range(ir.dim)]))
        if weights == "shared":
            self.register_constant("of_second", torch.zeros_like(self.of_second))
        self.register_constant("_rows", torch.tensor(rows_of(spec, outputs)))
        self.code = PairCode(algebra, spec, outputs, weights) if generate else None
        if self.code is not None:
            # What a model's file may change: the factors of a CP decomposition.
            self.register_load_state_dict_post_hook(look_again)

    def forward(
        self,
        x: Float[Tensor, "rows dim1 channels"],
        y: Float[Tensor, "rows dim2 channels"],
        weight: Float[Tensor, "*rows_or_none weights channels"],
    ) -> Float[Tensor, "rows out channels"]:
        a, b, c = self._split(weight)
        if self.code is not None and self.code.is_ready(self.algebra) and self.kernels.takes(x):
            return self.code(x, y, a, b, c)
        terms = [
            self._in_algebra(x, y, *each) for each in zip(a.unbind(-3), b.unbind(-3), c.unbind(-3))
        ]  # one for each copy
        found = terms[0] if len(terms) == 1 else torch.stack(terms).sum(0)
        if len(self.outputs) == len(self.spec.copies):
            return found
        return found.new_zeros(len(x), self.spec.rows, x.shape[2]).index_copy(1, self._rows, found)

    def _split(self, weight: Tensor) -> tuple[Tensor, ...]:
        """Weights a, b and c, ``(..., copies, parts, channels)``."""
        return weight.unflatten(-2, (self.rank, -1)).split(self._parts, dim=-2)

    def _in_algebra(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Float[Tensor, "rows dim channels"]:
        scaled = self.weights == "degrees"
        u = self.algebra.left(x * a.index_select(-2, self.of_first) if scaled else x)
        v = self.algebra.right(y * b.index_select(-2, self.of_second))
        found = self.algebra.back(self.algebra.multiply(u, v))
        return found * c.index_select(-2, self.of_out) if scaled else found

    def strengths(self) -> Float[Tensor, " paths"]:
        """Strength of every path in the algebra's tensor; the squares of those into one output add to one, over all copies."""
        return strengths_of(self.spec, self.algebra, self.outputs)

    def path_weights(self, weight: Float[Tensor, "*rows weights channels"]) -> Float[Tensor, "*rows paths channels"]:
        a, b, c = self._split(weight)
        found = []
        for path, strength in zip(self.spec.paths, self.strengths().to(weight)):
            value = strength * b[..., 0 if self.weights == "shared" else path.i2, :]
            if self.weights == "degrees":
                reached = path.out in self.outputs
                value = value * a[..., path.i1, :] * (c[..., self.outputs.index(path.out), :] if reached else 0)
            found.append(value.sum(-2))
        return torch.stack(found, dim=-2)

    def extra_repr(self) -> str:
        copies = f", {self.rank} copies" if self.rank > 1 else ""
        return f"{self.spec}; {self.weights} weights{copies}; {self.kernel}"


def rows_of(spec: TensorProductSpec, outputs: o3.Irreps) -> list[int]:
    """Rows of the result that hold some of the outputs."""
    everything = o3.Irreps([(1, out) for out in spec.copies])
    wanted = {out for _, out in outputs}
    return [
        row
        for part, (_, out) in zip(everything.slices(), everything)
        if out in wanted
        for row in range(part.start, part.stop)
    ]


class PairCode(TensorCode):
    """Generated code for a factorised pair product by the entries of its tensor, one weight for each part of that.

    Args:
        algebra: The product, from ``irreps_in1`` and ``irreps_in2`` of ``spec``.
        spec: Irreps.
        outputs: Irreps that it reaches.
        weights: Sharing of weights, see :class:`FactorisedPair`.

    Attributes:
        parts: For each weight of the code the places of its irreps in both inputs and in ``outputs``; those that do not count are 0.
    """

    couplings: Table

    def __init__(self, algebra: Algebra, spec: TensorProductSpec, outputs: o3.Irreps, weights: str) -> None:
        self._spec, self._outputs, self._weights = spec, outputs, weights
        super().__init__(algebra)

    def __call__(self, x: Tensor, y: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Float[Tensor, "rows out channels"]:
        """The sum of the products with weights ``(..., copies, parts, channels)``."""
        assert self.product is not None
        return value(x, y, self._weights_of_parts(a, b, c), self.product)

    def _weights_of_parts(self, a: Tensor, b: Tensor, c: Tensor) -> Float[Tensor, "*rows weights channels"]:
        if self._weights != "degrees":
            places = [second for _, second, _ in self.parts]
            b = b.squeeze(-3)
            return b if places == list(range(b.shape[-2])) else b[..., places, :]
        first, second, out = (torch.tensor(places, device=a.device) for places in zip(*self.parts))
        products = a.index_select(-2, first) * b.index_select(-2, second) * c.index_select(-2, out)
        return products.squeeze(-3) if a.shape[-3] == 1 else products.sum(-3)

    def _couplings_of(self, tensor: Float[Tensor, "dim1 dim2 dim_out"]) -> Table:
        spec, outputs = self._spec, [out for _, out in self._outputs]
        whole = tensor.new_zeros(*tensor.shape[:2], spec.rows)
        whole[:, :, rows_of(spec, self._outputs)] = tensor
        place_of = [outputs.index(out) if out in outputs else -1 for out in spec.copies]
        part_of = {
            "shared": lambda places: (0, 0, 0),
            "filter": lambda places: (0, places[1], 0),
            "degrees": lambda places: (places[0], places[1], place_of[places[2]]),
        }[self._weights]
        table, parts = Table.of_tensor(spec, whole, part_of)
        self.parts: list[tuple[int, int, int]] = parts
        return table

    def _remember(self) -> str:
        return remember(self.couplings)


def why_not_generated(algebra: Algebra, spec: TensorProductSpec, outputs: o3.Irreps, weights: str) -> str | None:
    """Reason why ``backend="auto"`` makes no code here for a pair product by its tensor; None if it does.

    Args:
        algebra, spec, outputs, weights: As of :class:`PairCode`.
    """
    if any(True for _ in algebra.parameters()):
        return "factors that are trained have no generated code"
    if (reason := unavailable()) is not None:
        return reason
    # Not `> 1e-9`: factors that a file is still to bring are no numbers yet, and count.
    entries = int((~(algebra.dense().abs() <= 1e-9)).sum())
    if entries > MANY_ENTRIES:  # to list them alone takes a while
        return too_slow(SECONDS * ENTRIES_OF_A_LOOP**0.5 * entries)
    return too_slow(seconds_to_generate(PairCode(algebra, spec, outputs, weights).couplings))


class JoinedPair(nn.Module):
    """The sum of several executors, their weights one after the other."""

    def __init__(self, spec: TensorProductSpec, parts: Sequence[FactorisedPair]) -> None:
        super().__init__()
        self.spec = spec
        self.parts = nn.ModuleList(parts)
        self._numels = [part.weight_numel for part in parts]
        self.weight_numel = sum(self._numels)

    @property
    def executors(self) -> list[FactorisedPair]:
        """The parts."""
        return list(self.parts)  # type: ignore[arg-type]  # a list of modules

    @property
    def initial_scale(self) -> Tensor:
        """Standard deviation of independent weights that give a result of unit variance."""
        return torch.cat([part.initial_scale for part in self.executors])

    @property
    def kernel(self) -> str:
        """Kernel of each part, in one line; see :class:`~equinet.ops.kernels.choice.WithKernels`."""
        return " and ".join(dict.fromkeys(part.kernel for part in self.executors))

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        weights = weight.split(self._numels, dim=-2)
        return torch.stack([part(x, y, w) for part, w in zip(self.executors, weights)]).sum(0)

    def path_weights(self, weight: Tensor) -> Tensor:
        weights = weight.split(self._numels, dim=-2)
        return torch.stack([part.path_weights(w) for part, w in zip(self.executors, weights)]).sum(0)
