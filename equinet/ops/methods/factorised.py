"""Base of the factorised methods: arguments, refusals, and assembly of executors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from e3nn import o3

from equinet.ops.coupling.pairings import Pairing, first_unreached, output_scales, reached_outputs
from equinet.ops.devices import made_on_cpu
from equinet.ops.factorised import generated_convolution, generated_powers, pair
from equinet.ops.factorised.algebra import Algebra
from equinet.ops.factorised.chains import Chain, DenseChain
from equinet.ops.factorised.convolution import FactorisedConvolution, JoinedConvolution, RadialWeights
from equinet.ops.factorised.pair import FactorisedPair, JoinedPair
from equinet.ops.factorised.powers import JoinedManyBody, PowerManyBody
from equinet.ops.kernels.choice import KernelChoice, unavailable
from equinet.ops.kernels.edge.reference import ReferenceConvolution
from equinet.ops.kernels.pair.reference import ReferencePair
from equinet.ops.layout import one_of_each
from equinet.ops.progress import building
from equinet.ops.protocols import Convolution, ManyBody, Pair
from equinet.ops.spec import ManyBodySpec, TensorProductSpec, highest_degree

from .arguments import require_one_of, require_role, require_whole
from .clebsch_gordan import ClebschGordan

Backend = Literal["auto", "generated", "torch", "reference"]

# With as many copies as the highest degree a convolution has every path; more than 64 would only fill the memory.
MOST_COPIES = 64


class Product(ABC):
    """One product of a method: which couplings it has, and the constants by which it is computed."""

    @abstractmethod
    def pairing(self, highest: int) -> Pairing:
        """Strengths of the couplings; ``highest`` is the highest degree of inputs and output."""

    @abstractmethod
    def algebra(self, irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps) -> Algebra:
        """The product of two inputs, one copy of each irrep."""

    @abstractmethod
    def chain(self, spec: ManyBodySpec) -> Chain:
        """Products of several factors."""

    def streamed_chain(self, spec: ManyBodySpec) -> Chain:
        """The same, on GPUs by kernels that leave nothing between in memory, where there are such."""
        return self.chain(spec)

    @abstractmethod
    def reference_chain(self, spec: ManyBodySpec) -> Chain:
        """The same by coupling tensors, from the formula of the strengths."""

    def tensors(self, spec: ManyBodySpec) -> DenseChain | None:
        """Those of :meth:`reference_chain`; None if the other chains are not quite the same function."""
        chain = self.reference_chain(spec)
        return chain if isinstance(chain, DenseChain) else None

    def commutes(self, spec: ManyBodySpec) -> bool:
        """True if x * y = y * x; if not, the factors of a power need weights of their own."""
        return True

    def calibration_chain(self, spec: ManyBodySpec) -> Chain | None:
        """Products by which to measure sizes, if not those of the chain itself."""
        return None


@dataclass(frozen=True, kw_only=True)
class FactorisedMethod(ABC):
    """Base of the methods that multiply in an algebra.

    Args:
        copies: R, the number of products with weights of their own (the rank of the family of path weights), up to 64. A pair product
            sums its copies, so that there is one unless ``weights`` is ``"degrees"``.
        weights: Weights of a copy in the convolution, where they are radial, and in the pair product: ``"filter"`` one per irrep of the
            second input, the degrees of the harmonics, ``"degrees"`` one per irrep of both inputs and the output, ``"shared"`` one for
            all paths.
        backend: ``"generated"``: convolutions by the entries of their tensor, in machine code for this processor and in kernels on
            CUDA; many-body products as polynomials of the features, likewise, but on CUDA those that multiply value by value (points
            of the sphere, terms with fixed factors) at their values, in one kernel. What has no such form (CP on a processor, very
            many terms, other precisions than float32 and float64) raises. ``"torch"``: matrix products, any device.
            ``"reference"``: the formulas term by term, the oracle of tests. ``"auto"``: ``"generated"`` where there is such a form,
            else ``"torch"``, as for convolutions whose code takes more than about ten seconds to make or whose factors are trained;
            ``repr`` of an executor says which, and why. With 2,000 terms and one copy ``"torch"`` may train up to 1.5 times faster
            on the grid (docs/products.md). Not saved with a model.

    Raises:
        ValueError: If an argument is none of these, or ``backend`` "generated" cannot run here; says why.
    """

    copies: int = 1
    weights: RadialWeights = "filter"
    backend: Backend = field(default="auto", metadata={"saved": False})

    def __post_init__(self) -> None:
        require_whole("copies", self.copies, MOST_COPIES)
        require_one_of("weights", self.weights, get_args(RadialWeights))
        require_one_of("backend", self.backend, get_args(Backend))
        if self.backend == "generated" and (reason := unavailable()):
            raise ValueError(f'`backend` "generated" cannot run here: {reason}, or take "auto"')

    @abstractmethod
    def products(self) -> tuple[Product, ...]:
        """The products it computes side by side, each with weights and copies of its own."""

    @abstractmethod
    def why_not(self, path: str) -> str:
        """Reason why a path is missing, and a method that has it."""

    def supports(self, spec: TensorProductSpec | ManyBodySpec) -> str | None:
        """None if this method can compute ``spec``, else the reason why not, in words."""
        highest = highest_degree(spec)
        if isinstance(spec, TensorProductSpec):
            if spec.pair and (reason := self._why_no_copies()):
                return reason
            path = first_unreached(spec, *(product.pairing(highest) for product in self.products()))
            return None if path is None else self.why_not(path)
        executor = self._of_torch().power(spec)
        if spec.correlation > 1 and executor.weight_numel == len(executor.linear):
            return f"all its products of {spec.irreps_in} with themselves vanish, or none is one of {spec.irreps_out}"
        reached = executor.reached
        missing = " or ".join(str(ir) for _, ir in spec.irreps_out if ir not in reached)
        if missing:
            return f"none of its products of up to {spec.correlation} factors of {spec.irreps_in} is {missing}"
        return None

    def reached(self, spec: ManyBodySpec) -> set[o3.Irrep]:
        """Those outputs of ``spec`` that are not zero whatever the features are."""
        return self._of_torch().power(spec).reached

    def _of_torch(self) -> FactorisedMethod:
        """The same function of the same weights without generated code, to look at what it reaches."""
        return self if self.backend in ("torch", "reference") else replace(self, backend="torch")

    @made_on_cpu
    def convolution(self, spec: TensorProductSpec) -> Convolution:
        """The executor for an edge convolution.

        Raises:
            ValueError: If ``backend`` is ``"generated"`` and this product has no generated code; says why.
        """
        require_role(spec, pair=False)
        if self.is_path_by_path(spec):
            return ClebschGordan(self.backend).convolution(spec)
        parts = [part for product in self.products() if (part := self._convolution(product, spec)) is not None]
        executor = parts[0] if len(parts) == 1 else JoinedConvolution(spec, parts)
        return ReferenceConvolution(spec, like=executor) if self.backend == "reference" else executor

    def is_path_by_path(self, spec: TensorProductSpec) -> bool:
        """True if features are one kind of scalar only, so that each output has one path, with a weight of its own.

        Then all methods compute the same, and the exact couplings do it with the fewest operations.
        """
        return len(spec.irreps_in1) == 1 and spec.irreps_in1.lmax == 0 and self.weights != "shared"

    def _convolution(self, product: Product, spec: TensorProductSpec) -> FactorisedConvolution | None:
        """The part of one product; None if it reaches no output."""
        pairing = product.pairing(highest_degree(spec))
        outputs = reached_outputs(spec, pairing)
        if not len(outputs):
            return None
        algebra = product.algebra(one_of_each(spec.irreps_in1), one_of_each(spec.irreps_in2), outputs)
        algebra.scale_out(output_scales(spec, pairing))
        reason = None
        if self.backend == "auto":
            reason = generated_convolution.why_not_generated(algebra, spec, outputs, self.copies, self.weights)
        return FactorisedConvolution(
            spec,
            algebra,
            outputs,
            weights=self.weights,
            copies=self.copies,
            kernels=KernelChoice(self.backend, cpu=reason, cuda=reason, product=f"the convolution {spec}"),
            generate=self.backend == "generated" or (self.backend == "auto" and reason is None),
        )

    @made_on_cpu
    def pair(self, spec: TensorProductSpec) -> Pair:
        """The executor for a pair product.

        Raises:
            ValueError: If copies would be no more than one, no output is reached, or ``backend`` is ``"generated"`` and this product has no
                generated code; says why.
        """
        require_role(spec, pair=True)
        reached = {product: reached_outputs(spec, product.pairing(highest_degree(spec))) for product in self.products()}
        count = Counter(out for outputs in reached.values() for _, out in outputs)
        if self._why_no_copies() or not count:
            raise ValueError(f"{self} cannot do {spec}: {self.supports(spec)}")
        parts = [self._pair(product, spec, outputs, count) for product, outputs in reached.items() if len(outputs)]
        executor = parts[0] if len(parts) == 1 else JoinedPair(spec, parts)
        return ReferencePair(spec, like=executor) if self.backend == "reference" else executor

    def _pair(
        self, product: Product, spec: TensorProductSpec, outputs: o3.Irreps, count: Mapping[o3.Irrep, int]
    ) -> FactorisedPair:
        """The part of one product; ``count``: products that reach an output, which share its variance."""
        algebra = product.algebra(one_of_each(spec.irreps_in1), one_of_each(spec.irreps_in2), outputs)
        sums = [self.copies * count[out] for _, out in outputs for _ in range(out.dim)]
        scales = output_scales(spec, product.pairing(highest_degree(spec)))
        algebra.scale_out(scales / torch.tensor(sums, dtype=torch.float64).sqrt())
        reason = pair.why_not_generated(algebra, spec, outputs, self.weights) if self.backend == "auto" else None
        return FactorisedPair(
            spec,
            algebra,
            outputs,
            weights=self.weights,
            copies=self.copies,
            kernels=KernelChoice(self.backend, cpu=reason, cuda=reason, product=f"the pair product {spec}"),
            generate=self.backend == "generated" or (self.backend == "auto" and reason is None),
        )

    def _why_no_copies(self) -> str | None:
        """Reason why there are no pair products of so many copies; None if there are."""
        if self.copies == 1 or self.weights == "degrees":
            return None
        return (
            f'a pair product is summed over its copies, so that {self.copies} of them with weights "{self.weights}" are no more than '
            'one; take `copies=1`, or `weights="degrees"`'
        )

    @made_on_cpu
    def many_body(self, spec: ManyBodySpec) -> ManyBody:
        """The executor for a many-body product.

        Raises:
            ValueError: If ``backend`` is ``"generated"`` and this product has no generated code on any device; says why.
        """
        executor = self.power(spec)
        for part in executor.executors if isinstance(executor, JoinedManyBody) else [executor]:
            part.kernels.require_any()
        return executor

    @made_on_cpu
    def power(self, spec: ManyBodySpec) -> PowerManyBody | JoinedManyBody:
        """The executor for a many-body product, which also knows what it reaches."""
        with building(f"the many-body product {spec}"):
            parts = [self._power(product, spec, linear=n == 0) for n, product in enumerate(self.products())]
        return parts[0] if len(parts) == 1 else JoinedManyBody(spec, parts)

    def _power(self, product: Product, spec: ManyBodySpec, *, linear: bool) -> PowerManyBody:
        """The part of one product."""
        chain, dense, reason = self._chain(product, spec), None, None
        if self.backend in ("auto", "generated"):
            reason = generated_powers.why_not_generated(spec)
            dense = product.tensors(spec) if reason is None else None
            reason = reason or (None if dense is not None else "too many terms as polynomials")
        on_cuda = None if chain.in_kernel else reason
        return PowerManyBody(
            spec,
            chain,
            modulations=1 if product.commutes(spec) else 2,
            copies=self.copies,
            linear=linear,
            calibrate_on=product.calibration_chain(spec),
            kernels=KernelChoice(self.backend, cpu=reason, cuda=on_cuda, product=f"the many-body product {spec}"),
            dense=dense,
        )

    def _chain(self, product: Product, spec: ManyBodySpec) -> Chain:
        """The products of one kind, as ``backend`` says."""
        ways = {"torch": product.chain, "reference": product.reference_chain}
        return ways.get(self.backend, product.streamed_chain)(spec)
