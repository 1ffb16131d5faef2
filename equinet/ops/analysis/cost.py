r"""Cost of a product, counted from its executor by one rule.

**Operations.** A multiplication counts 1 and an addition counts 1, so a multiply-add counts 2 and a product of matrices m x k
and k x n counts 2 m k n. Matrices count as they are multiplied, with their zeros. A real Fourier transform of n points counts
:math:`2.5\, n \log_2 n`, half of a complex one's :math:`5\, n \log_2 n`. Gathers, copies, splits and transposes count nothing; the
sum over the edges of a node counts one addition per number and edge. What is done once per call or per species (rounding of
constants, weights multiplied into coefficients) is not counted.

**Where.** What is done for every edge is counted per edge, what is done once for a node, however many edges it has (the way to the
grid and back), is counted per node. All channels together.

**Bytes.** Inputs, weights and outputs, read or written once, four bytes (float32) a number: of an edge the features it gathers,
its harmonics and its weights, of a node its result; in a many-body product the features and result of a node; in a pair product,
whose rows stand where edges do elsewhere, both inputs and the result. Weights that nodes or rows share are read once for all of them
and not counted. It is the least a fused kernel has to move; what torch moves is more.

To count a new executor, register a function with :func:`cost`; for a new algebra or chain there are :func:`algebra_work` and
:func:`chain_work`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch
from typing import NamedTuple

from equinet.ops.factorised.algebra import Algebra, Matrices
from equinet.ops.factorised.chains import AlgebraChain, Chain
from equinet.ops.factorised.convolution import FactorisedConvolution, JoinedConvolution
from equinet.ops.factorised.pair import FactorisedPair, JoinedPair
from equinet.ops.factorised.powers import JoinedManyBody, PowerManyBody
from equinet.ops.factorised.sphere import BracketChain, SeparableSphere
from equinet.ops.factorised.torus import Torus
from equinet.ops.kernels.edge.couplings import Couplings
from equinet.ops.kernels.edge.executor import GeneratedConvolution
from equinet.ops.kernels.edge.reference import EdgeMatrixConvolution
from equinet.ops.kernels.node.cpu import Polynomials
from equinet.ops.kernels.node.executor import GeneratedManyBody
from equinet.ops.kernels.node.reference import HornerManyBody
from equinet.ops.kernels.pair.executor import GeneratedPair
from equinet.ops.kernels.pair.reference import BatchedPair
from equinet.ops.kernels.pair.table import Table, steps
from equinet.ops.methods.cp import TermChain
from equinet.ops.methods.so2 import PolarFrame, SO2Convolution
from equinet.ops.spec import ManyBodySpec, TensorProductSpec


class Work(NamedTuple):
    """Operations: those in products of matrices, which a profiler can confirm, and all others."""

    matmul: float = 0.0
    other: float = 0.0

    @property
    def flops(self) -> float:
        return self.matmul + self.other

    def plus(self, *others: Work) -> Work:
        return Work(*(sum(parts) for parts in zip(self, *others)))

    def times(self, count: int) -> Work:
        return Work(self.matmul * count, self.other * count)


@dataclass(frozen=True)
class Cost:
    """Operations and bytes of a product, all channels; the rule is in :mod:`equinet.ops.analysis.cost`."""

    edge: Work
    node: Work
    bytes_per_edge: int
    bytes_per_node: int

    @property
    def flops_per_edge(self) -> float:
        return self.edge.flops

    @property
    def flops_per_node(self) -> float:
        return self.node.flops

    def as_json(self) -> dict[str, float]:
        names = ("flops_per_edge", "flops_per_node", "bytes_per_edge", "bytes_per_node")
        return {name: getattr(self, name) for name in names}


@singledispatch
def cost(executor: object) -> Cost | None:
    """Cost of an executor; None if there is no cost model, as for reference forms."""
    return None


def _of_edges(executor: object, spec: TensorProductSpec, edge: Work, node: Work) -> Cost:
    numel, copies = executor.weight_numel, executor.copies  # type: ignore[attr-defined]
    numbers = spec.irreps_in1.dim + spec.irreps_in2.dim + numel * spec.channels
    rows = sum(out.dim * count for out, count in copies.items())
    return Cost(edge, node, 4 * numbers, 4 * rows * spec.channels)


def _of_nodes(spec: ManyBodySpec, node: Work) -> Cost:
    return Cost(Work(), node, 0, 4 * (spec.irreps_in.dim + spec.irreps_out.dim))


# Convolutions


@cost.register
def _(executor: EdgeMatrixConvolution) -> Cost:
    spec, channels = executor.spec, executor.spec.channels
    rows = sum(components * paths for components, paths in executor.columns)
    dim1 = spec.irreps_in1.dim // channels
    # couplings with harmonics, shared by all channels; times features; times weights, summed
    edge = Work(2 * spec.irreps_in2.dim * rows * dim1 + 2 * rows * dim1 * channels, 2 * rows * channels)
    return _of_edges(executor, spec, edge, Work())


def _through_couplings(couplings: Couplings) -> Work:
    entries = sum(len(block.entries) for block in couplings.blocks)
    shared = sum(2 * len(terms) - 1 for terms in couplings.terms)  # couplings with harmonics
    scaled = sum(len(block.inputs) for block in couplings.blocks)  # weights times features
    return Work(0, shared + (scaled + 2 * entries) * couplings.channels)


@cost.register
def _(executor: GeneratedConvolution) -> Cost:
    return _of_edges(executor, executor.spec, _through_couplings(executor.couplings), Work())


@cost.register
def _(executor: FactorisedConvolution) -> Cost:
    if executor.code is not None:
        couplings = executor.code.couplings
        products = 2 * couplings.weights * executor.spec.channels if executor.weights == "degrees" else 0
        return _of_edges(executor, executor.spec, _through_couplings(couplings).plus(Work(0, products)), Work())
    spec, algebra, channels = executor.spec, executor.algebra, executor.spec.channels
    columns = channels * executor.rank
    parts = executor.one.shape[1]
    values, inputs, outputs = algebra.values, len(spec.irreps_in1), len(executor.copies)
    one, all_copies = algebra_work(algebra, channels), algebra_work(algebra, columns)
    # the filter of each degree at every value, shared by all channels; then of every channel
    edge = Work(2 * spec.irreps_in2.dim * values * parts + 2 * values * parts * columns).plus(all_copies.multiply)
    if executor.weights != "degrees":
        edge = edge.plus(Work(0, values * columns))
        return _of_edges(executor, spec, edge, one.left.plus(all_copies.back))
    edge = edge.plus(Work(0, (2 * inputs - 1) * values * columns), Work(0, 2 * outputs * values * columns))
    return _of_edges(executor, spec, edge, one.left.times(inputs).plus(all_copies.back.times(outputs)))


@cost.register
def _(executor: JoinedConvolution) -> Cost:
    found = [cost(part) for part in executor.parts]
    counted = [part for part in found if part is not None]
    edge, node = (Work().plus(*(getattr(part, name) for part in counted)) for name in ("edge", "node"))
    return _of_edges(executor, executor.spec, edge, node)


@cost.register
def _(executor: SO2Convolution) -> Cost:
    spec, channels, frame = executor.spec, executor.spec.channels, executor.frame
    edge = frame_work(frame)
    edge = edge.plus(Work(0, 3 if executor.direction is not None else 0))
    for _, l1 in executor.inputs:
        if l1 > 0:
            edge = edge.plus(Work(2 * (2 * min(l1, frame.max_order) + 1) * (2 * l1 + 1) * channels))
    for s, (out, _) in enumerate(executor.outputs):
        terms = len(getattr(executor, f"rows_{s}"))
        if out.l == 0:
            back = Work(0, (2 * terms - 1) * channels)
        elif terms == 1:
            back = Work(0, out.dim * channels)
        else:
            back = Work(2 * terms * out.dim * channels)
        # weights, the frame's coefficients, the way back, the sum
        edge = edge.plus(Work(0, terms * channels + terms * out.dim), back, Work(0, out.dim * channels))
    return _of_edges(executor, spec, edge, Work())


def frame_work(frame: PolarFrame) -> Work:
    """Wigner matrices of one direction."""
    work = Work(0, 20 if frame.max_order > 0 else 0)  # the entries of the rotation, one by one
    for l in range(2, frame.max_degree + 1):
        below, rows, pairs = 2 * min(l - 1, frame.max_order) + 1, 2 * min(l, frame.max_order) + 1, 3 * (2 * l - 1)
        work = work.plus(Work(2 * rows * (2 * l + 1) * pairs, below * (2 * l - 1) + below * pairs))
        if l <= frame.max_order:
            work = work.plus(Work(16 * pairs, 4 * pairs))
    return work


# Pair products: rows stand where edges do elsewhere


def _of_rows(spec: TensorProductSpec, row: Work) -> Cost:
    return Cost(row, Work(), 4 * (spec.irreps_in1.dim + spec.irreps_in2.dim + spec.rows * spec.channels), 0)


@cost.register
def _(executor: BatchedPair) -> Cost:
    spec, row = executor.spec, Work()
    for n, (i1, i2, _) in enumerate(executor.groups):
        table = getattr(executor, f"table_{n}")
        products = spec.irreps_in1[i1].ir.dim * spec.irreps_in2[i2].ir.dim
        row = row.plus(Work(2 * table.numel() * spec.channels, products * spec.channels))
    weighted = 2 * sum(path.out.dim for path in spec.paths) - spec.rows
    return _of_rows(spec, row.plus(Work(0, weighted * spec.channels)))


def _through_table(table: Table) -> Work:
    begun: set[str] = set()
    additions = products = 0
    for block in table.blocks:
        own: set[str] = set()
        for target, _, _ in steps(block, "z"):
            names = begun if target.startswith("d") else own
            additions += target in names
            products += 1
            names.add(target)
    return Work(0, (additions + products) * table.channels)


@cost.register
def _(executor: GeneratedPair) -> Cost:
    return _of_rows(executor.spec, _through_table(executor.table))


@cost.register
def _(executor: FactorisedPair) -> Cost:
    spec, channels = executor.spec, executor.spec.channels
    if executor.code is not None:
        parts = executor.code.couplings.sizes["w"]
        made = (3 * executor.rank - 1) * parts * channels if executor.weights == "degrees" else 0
        return _of_rows(spec, _through_table(executor.code.couplings).plus(Work(0, made)))
    work = algebra_work(executor.algebra, channels)
    scaled, reached = spec.irreps_in2.dim, len(executor.of_out) * channels
    if executor.weights == "degrees":
        scaled += spec.irreps_in1.dim + reached
    each = work.left.plus(work.right, work.multiply, work.back, Work(0, scaled))
    return _of_rows(spec, each.times(executor.rank).plus(Work(0, (executor.rank - 1) * reached)))


@cost.register
def _(executor: JoinedPair) -> Cost:
    found = [cost(part) for part in executor.executors]
    row = Work(0, (len(found) - 1) * executor.spec.rows * executor.spec.channels)
    return _of_rows(executor.spec, row.plus(*(part.edge for part in found if part is not None)))


# Algebras: for a number of columns, that is channels times copies


class AlgebraWork(NamedTuple):
    """Work of the four maps of an :class:`Algebra`: both inputs to values, their product, and the result back."""

    left: Work
    right: Work
    multiply: Work
    back: Work

    def with_transform(self, work: Work) -> AlgebraWork:
        """Something done to either input, and to the product."""
        return AlgebraWork(self.left.plus(work), self.right.plus(work), self.multiply, self.back.plus(work))


@singledispatch
def algebra_work(algebra: Algebra, columns: int) -> AlgebraWork:
    """A matrix for each input, value by value, a matrix back: points of a sphere and terms of a decomposition."""
    left, right, back = (Work(2 * m.numel() * columns) for m in (algebra.to_left, algebra.to_right, algebra.to_out))
    return AlgebraWork(left, right, Work(0, algebra.values * columns), back)


@algebra_work.register
def _(algebra: Matrices, columns: int) -> AlgebraWork:
    dense = algebra_work.dispatch(Algebra)(algebra, columns)
    size = algebra.size
    return dense._replace(multiply=Work(0, 2 * size * size * (2 * size - 1) * columns))


@algebra_work.register
def _(algebra: SeparableSphere, columns: int) -> AlgebraWork:
    dense = algebra_work.dispatch(Algebra)(algebra, columns)
    orders, latitudes, degrees = algebra.legendre.shape
    each = 2 * algebra.sheets * orders * latitudes * columns
    transform = Work(each * degrees + each * algebra.longitudes)
    return dense.with_transform(transform)


@algebra_work.register
def _(algebra: Torus, columns: int) -> AlgebraWork:
    dense = algebra_work.dispatch(Algebra)(algebra, columns)
    points = algebra.latitudes * algebra.longitudes
    transform = Work(0, 2.5 * points * math.log2(points) * algebra.sheets * columns)
    return dense.with_transform(transform)


# Many-body products


@cost.register
def _(executor: HornerManyBody) -> Cost:
    spec, channels, variables = executor.spec, executor.spec.channels, executor.variables
    sizes = [math.comb(variables + d - 1, d) for d in range(spec.correlation)]
    columns = spec.irreps_out.dim // channels * variables
    node = Work()
    for d in range(2, spec.correlation):
        node = node.plus(Work(2 * (sizes[d - 1] + variables) * sizes[d] * channels, sizes[d] * channels))
    last = (2 * columns - columns // variables) * channels
    return _of_nodes(spec, node.plus(Work(2 * sum(sizes) * columns * channels, last)))


@cost.register
def _(executor: GeneratedManyBody) -> Cost:
    return _of_nodes(executor.spec, _through_polynomials(executor.polynomials))


def _through_polynomials(p: Polynomials) -> Work:
    groups = sum(count * (2 * length + 1) for length, _, count in p.groups)
    return Work(0, (len(p.monomials) + groups) * p.channels)


@cost.register
def _(executor: PowerManyBody) -> Cost | None:
    if executor.code is not None:
        return _of_nodes(executor.spec, _through_polynomials(executor.code.polynomials))
    spec, channels, copies = executor.spec, executor.spec.channels, executor.rank
    dims = [ir.dim for _, ir in spec.irreps_out]
    written = set(executor.linear)
    node = Work(0, sum(dims[k] for k in executor.linear) * channels)
    if executor.terms:
        chain = chain_work(executor.chain, executor.terms[-1][0], channels * copies)
        if chain is None:
            return None
        node = node.plus(chain, Work(0, executor.modulations * copies * spec.irreps_in.dim))
        for _, k in executor.terms:
            node = node.plus(Work(0, (2 * copies - 1 + (k in written)) * dims[k] * channels))
            written.add(k)
    return _of_nodes(spec, node)


@cost.register
def _(executor: JoinedManyBody) -> Cost | None:
    found = [cost(part) for part in executor.parts]
    counted = [part.node for part in found if part is not None]
    if len(counted) < len(found):
        return None
    sums = Work(0, (len(found) - 1) * executor.spec.irreps_out.dim)
    return _of_nodes(executor.spec, sums.plus(*counted))


@singledispatch
def chain_work(chain: Chain, highest: int, columns: int) -> Work | None:
    """Cost of the products of 2 to ``highest`` factors; None if there is no cost model, as for the reference chain."""
    return None


@chain_work.register
def _(chain: AlgebraChain, highest: int, columns: int) -> Work:
    work = algebra_work(chain.algebra, columns)
    return work.left.plus(work.right, work.multiply.plus(work.back).times(highest - 1))


@chain_work.register
def _(chain: TermChain, highest: int, columns: int) -> Work:
    work = algebra_work(chain.algebra, columns)
    first = Work(2 * chain.algebra.rank * len(chain.of_factor) * columns)
    return first.plus(work.right, work.multiply.plus(work.back, work.left).times(highest - 1))


@chain_work.register
def _(chain: BracketChain, highest: int, columns: int) -> Work:
    points = chain.to_values.shape[0]
    back = Work(2 * chain.to_out.numel() * columns)
    gradients = Work(2 * 2 * chain.to_gradients.numel() * columns, 3 * points * columns)
    values = Work(2 * chain.to_values.numel() * columns)
    return gradients.plus(values, back, back.plus(Work(0, points * columns)).times(highest - 2))
