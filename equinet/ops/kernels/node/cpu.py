r"""The many-body product and its derivatives as loops over nodes, generated from the polynomials of a :class:`ManyBodySpec`.

In nested form, with the weights multiplied into the coefficients once per species,

.. math:: B_k = \sum_M m_M(x) \; \sum_{l} K_{k M l} \, x_l,

where M runs over the monomials of degree 0 to nu - 1. Few of the K are not zero (one in ten at degree 3, one in thirty at 4), and
lists of those are all the code knows: it is short whatever the irreps are. A list holds groups of equal length, each a k, an M
and some l, so that nothing has to be decided while it runs.

================  ===============================================================================
``value``         B
``gradient``         gradients of :math:`\langle g, B \rangle` with respect to x
``weight_gradient``  gradients of :math:`\langle g, B \rangle` with respect to K
``double_backward``          gradients of :math:`\langle a, \mathrm{gradient} \rangle` with respect to g, x and K
================  ===============================================================================

Source:
    The nested sum is Horner's; the reverse sweep over monomials that of Lysogorskiy et al. 2021 (PACE), arXiv 2103.00814.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from equinet.ops.codegen.llvm import Function, Value, lanes_for
from equinet.ops.coupling.polynomials import covariants_in
from equinet.ops.spec import ManyBodySpec

Monomial = tuple[int, ...]  # its variables, ascending
Found = dict[tuple[int, Monomial], list[tuple[int, float]]]

# Longer groups are cut. Their code is written out term by term.
LONGEST_GROUP = 8


class Groups(NamedTuple):
    """Groups of one length in the table of all groups.

    Attributes:
        length: Number of l in each.
        start: Index in the table at which they begin.
        number: Number of terms. Each takes ``3 + length`` numbers: k, M, the first of its K, and every l.
    """

    length: int
    start: int
    number: int


class Polynomials:
    """The non-zero K of a product, in the order in which the code reads them.

    Attributes:
        variables, outputs: Rows of features and result.
        monomials: ``(products, 2)`` int64: each monomial of degree 2 and more as the product of an earlier one and a variable.
            Monomial 0 is one, the next are the variables.
        table: int64, the groups.
        groups: Layout of ``table``.
        coefficients: ``(weights, terms)`` float64: the K that each weight contributes to.
        terms: ``(terms, 3)`` int64: k, M and l of each K.
    """

    def __init__(self, channels: int, variables: int, outputs: int, weights: int, found: Found) -> None:
        """The polynomials of so many ``weights``.

        Args:
            found: Contributions of each weight: for every output k and monomial the weights and their numbers.
        """
        self.channels, self.variables, self.outputs = channels, variables, outputs
        heads = _heads(list(found))
        numbers, products = self._numbered(set(heads.values()))
        terms = [(k, numbers[head], _quotient(monomial, head)) for (k, monomial), head in heads.items()]
        self.monomials = torch.tensor(products, dtype=torch.int64).view(-1, 2)
        self.table, self.groups, order = _grouped(terms)
        self.terms = torch.tensor([terms[n] for n in order], dtype=torch.int64)
        names = list(heads)
        parts = [(weight, column, number) for column, n in enumerate(order) for weight, number in found[names[n]]]
        contributions = np.array(parts).reshape(-1, 3)
        coefficients = np.zeros((weights, len(terms)))
        np.add.at(coefficients, tuple(contributions[:, :2].astype(np.int64).T), contributions[:, 2])
        self.coefficients = torch.from_numpy(coefficients)

    @classmethod
    def of_paths(cls, spec: ManyBodySpec) -> Polynomials:
        """Polynomials of all exact couplings of a spec."""
        variables, outputs = (irreps.dim // spec.channels for irreps in (spec.irreps_in, spec.irreps_out))
        found: Found = defaultdict(list)
        row, weights = 0, 0
        for _, ir in spec.irreps_out:
            for nu in range(1, spec.correlation + 1):
                basis = covariants_in(spec.irreps_in, nu, ir)
                if basis is None:
                    continue
                for p, component, monomial, coefficient in basis.terms():
                    found[row + component, monomial].append((weights + p, coefficient))
                weights += len(basis.parts)
            row += ir.dim
        return cls(spec.channels, variables, outputs, weights, found)

    def _numbered(self, wanted: set[Monomial]) -> tuple[dict[Monomial, int], list[tuple[int, int]]]:
        """Numbers of the monomials that occur and of those they are made from, and these products."""
        numbers: dict[Monomial, int] = {(): 0} | {(v,): 1 + v for v in range(self.variables)}
        needed = {head[:length] for head in wanted for length in range(2, len(head) + 1)}
        products = []
        for head in sorted(needed, key=lambda head: (len(head), head)):
            numbers[head] = len(numbers)
            products.append((numbers[head[:-1]], 1 + head[-1]))
        return numbers, products

    @property
    def name(self) -> str:
        """Name of the generated code, independent of the coefficients."""
        lists = [each.tolist() for each in (self.monomials, self.table, self.terms)]
        content = repr((self.channels, self.variables, self.outputs, lists))
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def monomial_count(self) -> int:
        return 1 + self.variables + len(self.monomials)


def _heads(terms: list[tuple[int, Monomial]]) -> dict[tuple[int, Monomial], Monomial]:
    """For each (k, monomial) all of its variables but one, chosen so that few heads serve many terms of a k.

    Always the head that serves the most of what is left of this k; of equal ones one that serves another k already.
    """
    chosen: dict[tuple[int, Monomial], Monomial] = {}
    taken: set[Monomial] = set()
    of_output: dict[int, set[Monomial]] = defaultdict(set)
    for k, monomial in terms:
        of_output[k].add(monomial)
    for k, monomials in sorted(of_output.items()):
        heads = _served(monomials, taken)
        chosen |= {(k, monomial): head for head, served in heads.items() for monomial in sorted(served)}
        taken |= set(heads)
    return chosen


def _served(left: set[Monomial], taken: set[Monomial]) -> dict[Monomial, set[Monomial]]:
    """Heads of one output in the order in which they are chosen, each with the monomials it serves."""
    served: dict[Monomial, set[Monomial]] = defaultdict(set)
    for monomial in left:
        for n in range(len(monomial)):
            served[monomial[:n] + monomial[n + 1 :]].add(monomial)

    def rank(head: Monomial) -> tuple[int, bool, tuple[float, ...], Monomial]:
        # Of heads that are as good the first in order, a longer one before its beginning.
        return -len(served[head]), head not in taken, (*head, math.inf), head

    waiting = [rank(head) for head in served]
    heapq.heapify(waiting)
    chosen: dict[Monomial, set[Monomial]] = {}
    while left:
        before, *_, best = heapq.heappop(waiting)
        served[best] &= left
        if len(served[best]) == -before:
            chosen[best] = served[best]
            left = left - served[best]
        elif served[best]:  # others took some of them: it waits for its turn again
            heapq.heappush(waiting, rank(best))
    return chosen


def _quotient(monomial: Monomial, head: Monomial) -> int:
    """The variable that ``monomial`` has more than ``head``."""
    rest = list(monomial)
    for variable in head:
        rest.remove(variable)
    return rest[0]


def _grouped(terms: list[tuple[int, int, int]]) -> tuple[Tensor, list[Groups], list[int]]:
    """The table of groups, what is where in it, and the order of the terms in it."""
    by_head: dict[tuple[int, int], list[int]] = defaultdict(list)
    for n, (k, m, _) in enumerate(terms):
        by_head[k, m].append(n)
    by_length: dict[int, list[list[int]]] = defaultdict(list)
    for _, members in sorted(by_head.items()):
        for start in range(0, len(members), LONGEST_GROUP):
            part = members[start : start + LONGEST_GROUP]
            by_length[len(part)].append(part)
    table: list[int] = []
    groups: list[Groups] = []
    order: list[int] = []
    shuffle = np.random.RandomState(0)
    for length, parts in sorted(by_length.items()):
        groups.append(Groups(length, len(table), len(parts)))
        # Neighbours in the list that add to the same number would wait for each other.
        for n in shuffle.permutation(len(parts)):
            part = parts[n]
            k, m, _ = terms[part[0]]
            table += [k, m, len(order), *(terms[n][2] for n in part)]
            order += part
    return torch.tensor(table, dtype=torch.int64), groups, order


TABLES = ("monomials", "table", "order", "species", "count")


class NodeLoops:
    """Writes the four functions for one set of polynomials.

    ``value`` and ``gradient`` work on the nodes ``begin`` to ``end`` of ``order``, nodes sorted by species so that their K stay in the
    cache; ``weight_gradient`` and ``double_backward`` on blocks of channels, as nodes add to the same gradients of K.
    """

    def __init__(self, polynomials: Polynomials, dtype: torch.dtype) -> None:
        self.p, self.dtype = polynomials, dtype
        self.lanes = lanes_for(polynomials.channels, dtype)

    @property
    def blocks(self) -> int:
        """Blocks of channels."""
        return self.p.channels // self.lanes

    def value(self) -> Function:
        f, p = self._function("value", ("x", "K", "out")), self.p
        powers, sums = f.scratch(p.monomial_count), f.scratch(p.outputs)
        with f.loop(0, p.channels, self.lanes) as channel, f.loop(f.begin, f.end) as n:
            node = f.load_integer("order", n)
            self._powers(f, powers, "x", node, channel)
            self._clear(f, sums, p.outputs)
            for group in self._groups(f, node, channel):
                inner = f.sum_of_products([(f.load("K", t), f.load(powers, l)) for t, l in group.terms])
                f.accumulate(f.multiply(inner, f.load(powers, group.monomial)), sums, f.at((group.output, self.lanes)))
            self._copy(f, sums, 0, "out", node, p.outputs, channel)
        return f

    def gradient(self) -> Function:
        f, p = self._function("gradient", ("g", "x", "K", "dx")), self.p
        powers, gradients = f.scratch(p.monomial_count), f.scratch(p.monomial_count)
        with f.loop(0, p.channels, self.lanes) as channel, f.loop(f.begin, f.end) as n:
            node = f.load_integer("order", n)
            self._powers(f, powers, "x", node, channel)
            self._clear(f, gradients, p.monomial_count)
            for group in self._groups(f, node, channel):
                g = self._result_gradient(f, group, node, channel)
                coefficients = [f.load("K", t) for t, _ in group.terms]
                inner = f.sum_of_products([(k, f.load(powers, l)) for k, (_, l) in zip(coefficients, group.terms)])
                outer = f.multiply(g, f.load(powers, group.monomial))
                f.accumulate(f.multiply(g, inner), gradients, group.monomial)
                for k, (_, l) in zip(coefficients, group.terms):
                    f.accumulate(f.multiply(k, outer), gradients, l)
            for product, first, last in self._products(f, backwards=True):
                s = f.load(gradients, product)
                f.accumulate(f.multiply(s, f.load(powers, last)), gradients, first)
                f.accumulate(f.multiply(s, f.load(powers, first)), gradients, last)
            self._copy(f, gradients, 1, "dx", node, p.variables, channel)
        return f

    def weight_gradient(self) -> Function:
        f, p = self._function("weight_gradient", ("g", "x", "dK")), self.p
        powers = f.scratch(p.monomial_count)
        with f.loop(f.begin, f.end) as block, f.loop(0, f.load_integer("count", 0)) as n:
            node, channel = f.load_integer("order", n), f.at((block, self.lanes))
            self._powers(f, powers, "x", node, channel)
            for group in self._groups(f, node, channel):
                outer = f.multiply(self._result_gradient(f, group, node, channel), f.load(powers, group.monomial))
                for t, l in group.terms:
                    f.accumulate(f.multiply(outer, f.load(powers, l)), "dK", t)
        return f

    def double_backward(self) -> Function:
        f, p = self._function("double_backward", ("a", "g", "x", "K", "dg", "dx", "dK")), self.p
        # Monomials and their changes along a, and what <a, gradient> changes with each of the two.
        powers, changes, gradients, change_gradients = (f.scratch(p.monomial_count) for _ in range(4))
        sums = f.scratch(p.outputs)
        with f.loop(f.begin, f.end) as block, f.loop(0, f.load_integer("count", 0)) as n:
            node, channel = f.load_integer("order", n), f.at((block, self.lanes))
            self._powers(f, powers, "x", node, channel)
            self._changes(f, powers, changes, node, channel)
            for memory, rows in (
                (gradients, p.monomial_count),
                (change_gradients, p.monomial_count),
                (sums, p.outputs),
            ):
                self._clear(f, memory, rows)
            for group in self._groups(f, node, channel):
                self._double_backward_group(f, group, powers, changes, gradients, change_gradients, sums, node, channel)
            for product, first, last in self._products(f, backwards=True):
                s, c = f.load(gradients, product), f.load(change_gradients, product)
                x, a = f.load(powers, last), f.load(changes, last)
                to_last = f.sum_of_products([(s, f.load(powers, first)), (c, f.load(changes, first))])
                f.store(f.sum_of_products([(s, x), (c, a)], f.load(gradients, first)), gradients, first)
                f.accumulate(f.multiply(c, x), change_gradients, first)
                f.accumulate(to_last, gradients, last)
            self._copy(f, sums, 0, "dg", node, p.outputs, channel)
            self._copy(f, gradients, 1, "dx", node, p.variables, channel)
        return f

    def _double_backward_group(
        self,
        f: Function,
        group: Group,
        powers: Value,
        changes: Value,
        gradients: Value,
        change_gradients: Value,
        sums: Value,
        node: Value,
        channel: Value,
    ) -> None:
        """One group's part of <a, gradient> = g (change of M) (sum of K x) + g M (sum of K a), and what it changes with."""
        g = self._result_gradient(f, group, node, channel)
        coefficients = [f.load("K", t) for t, _ in group.terms]
        inner = f.sum_of_products([(k, f.load(powers, l)) for k, (_, l) in zip(coefficients, group.terms)])
        inner_change = f.sum_of_products([(k, f.load(changes, l)) for k, (_, l) in zip(coefficients, group.terms)])
        m, change = f.load(powers, group.monomial), f.load(changes, group.monomial)
        output = f.at((group.output, self.lanes))
        f.store(f.sum_of_products([(change, inner), (m, inner_change)], f.load(sums, output)), sums, output)
        f.accumulate(f.multiply(g, inner_change), gradients, group.monomial)
        f.accumulate(f.multiply(g, inner), change_gradients, group.monomial)
        outer, outer_change = f.multiply(g, m), f.multiply(g, change)
        for k, (t, l) in zip(coefficients, group.terms):
            f.accumulate(f.multiply(k, outer_change), gradients, l)
            products = [(outer_change, f.load(powers, l)), (outer, f.load(changes, l))]
            f.store(f.sum_of_products(products, f.load("dK", t)), "dK", t)

    def _function(self, name: str, pointers: tuple[str, ...]) -> Function:
        return Function(name, (*TABLES, *pointers), self.dtype, self.lanes)

    def _powers(self, f: Function, powers: Value, array: str, node: Value, channel: Value) -> None:
        """All monomials of a node's features."""
        self._variables(f, powers, array, node, channel, 1.0)
        for product, first, last in self._products(f):
            f.store(f.multiply(f.load(powers, first), f.load(powers, last)), powers, product)

    def _changes(self, f: Function, powers: Value, changes: Value, node: Value, channel: Value) -> None:
        """Changes of all monomials along a."""
        self._variables(f, changes, "a", node, channel, 0.0)
        for product, first, last in self._products(f):
            factors = [(f.load(changes, first), f.load(powers, last)), (f.load(powers, first), f.load(changes, last))]
            f.store(f.sum_of_products(factors), changes, product)

    def _variables(self, f: Function, memory: Value, array: str, node: Value, channel: Value, one: float) -> None:
        f.store(f.splat(f.constant(one)), memory, 0)
        p = self.p
        with f.loop(0, p.variables) as v:
            x = f.load(array, f.at((node, p.variables * p.channels), (v, p.channels), channel))
            f.store(x, memory, f.at((v, self.lanes), self.lanes))

    def _products(self, f: Function, *, backwards: bool = False) -> Iterator[tuple[Value, Value, Value]]:
        """A loop over the monomials of degree 2 and more: where each is, and its two factors."""
        start, number = 1 + self.p.variables, len(self.p.monomials)
        with f.loop(0, number) as n:
            m = f.at((n, -1), number - 1) if backwards else n
            first, last = (f.load_integer("monomials", f.at((m, 2), part)) for part in (0, 1))
            yield f.at((m, self.lanes), start * self.lanes), f.at((first, self.lanes)), f.at((last, self.lanes))

    def _groups(self, f: Function, node: Value, channel: Value) -> Iterator[Group]:
        """Loops over the groups, one for each length."""
        p, species = self.p, f.load_integer("species", node)
        for length, start, number in p.groups:
            size = 3 + length
            with f.loop(start, start + size * number, size) as at:
                output, monomial, term, *variables = (f.load_integer("table", f.at(at, n)) for n in range(size))
                base = f.at((species, p.terms.shape[0] * p.channels), (term, p.channels), channel)
                yield Group(
                    output,
                    f.at((monomial, self.lanes)),
                    [
                        (f.at(base, n * p.channels), f.at((variable, self.lanes), self.lanes))
                        for n, variable in enumerate(variables)
                    ],
                )

    def _result_gradient(self, f: Function, group: Group, node: Value, channel: Value) -> Value:
        p = self.p
        return f.load("g", f.at((node, p.outputs * p.channels), (group.output, p.channels), channel))

    def _clear(self, f: Function, memory: Value, rows: int) -> None:
        with f.loop(0, rows * self.lanes, self.lanes) as n:
            f.store(f.zero(), memory, n)

    def _copy(self, f: Function, memory: Value, first: int, array: str, node: Value, rows: int, channel: Value) -> None:
        with f.loop(0, rows) as row:
            value = f.load(memory, f.at((row, self.lanes), first * self.lanes))
            f.store(value, array, f.at((node, rows * self.p.channels), (row, self.p.channels), channel))


class Group(NamedTuple):
    """A group while code for it is written.

    Attributes:
        output: k.
        monomial: Index of M among the monomials.
        terms: For each l where its K lies, and where x_l lies among the monomials.
    """

    output: Value
    monomial: Value
    terms: list[tuple[Value, Value]]
