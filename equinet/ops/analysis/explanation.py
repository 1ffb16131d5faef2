"""Printable results of :func:`equinet.ops.explain`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from equinet.tables import Block, Column, Table, Text, as_text

from .cost import Cost


class Printable(ABC):
    """Base of results that consist of tables and lines; their text is the same."""

    @abstractmethod
    def blocks(self) -> list[Block]:
        """Tables and lines, as the command line shows them."""

    def __str__(self) -> str:
        return as_text(self.blocks())


@dataclass(frozen=True)
class Part:
    """One path of a product, or the products of so many factors into one output."""

    name: str
    """``1o x 1o -> 0e``, or the number of factors."""
    out: str
    """The output irrep it ends in."""
    reached: int
    """How many dimensions the method reaches; of a path 0 or 1."""
    full: int
    """How many there are; of a path 1."""
    strength: float | None = None
    """Of a path: its coefficient in the executor, for weights of one. Into one output the squares add to 1 where paths
    are summed. None in many-body products."""


@dataclass(frozen=True, repr=False)
class Explanation(Printable):
    """Expressivity, cost and equivariance error of one method for a spec; made by :func:`equinet.ops.explain`."""

    method: str
    """Name and arguments, as a configuration has them."""
    spec: str
    """What was asked for."""
    many_body: bool
    """Whether it is a product of one node's features with themselves, and not of two inputs."""
    refusal: str | None
    """Why a model would not get this method for this spec, in words; None if it would."""
    executor: str | None
    """The class that computes it; None if there is none."""
    parts: tuple[Part, ...]
    """Paths, or outputs and numbers of factors."""
    expressivity: int
    """Dimension of the family of maps it reaches; see :func:`equinet.ops.explain`."""
    weights: int
    """Weights per edge and channel, per species and channel, or of a pair product per channel."""
    weights_dimension: int
    """How many of these are independent: the dimension of what they reach with no linear maps around."""
    cost: Cost | None
    """Operations and bytes; None if there is no executor or nobody counted it."""
    equivariance_error: Mapping[str, float]
    """By dtype; empty if there is nothing to measure."""
    tensor_error: float | None
    """Of a CP decomposition its relative error; None for the others."""
    pair: bool = False
    """True if both inputs have channels; its rows are then what edges are elsewhere."""

    @property
    def full(self) -> int:
        """Paths, or independent polynomials, there are."""
        return sum(part.full for part in self.parts)

    @property
    def reached(self) -> int:
        """Paths it reaches. Of a many-body product: outputs' polynomials, counted for each output and number of factors alone."""
        return sum(part.reached for part in self.parts)

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and words."""
        found = asdict(self)
        found["cost"] = None if self.cost is None else self.cost.as_json()
        found["equivariance_error"] = dict(self.equivariance_error)
        return {**found, "reached": self.reached, "full": self.full}

    def blocks(self) -> list[Block]:
        """Facts, then the paths or polynomials that are reached."""
        columns = [Column("", tone="strong"), Column("", fold=True)]
        facts = Table("", columns, self._facts(), padding=2)
        if not self.parts:
            return [facts]
        title = "polynomials reached, by number of factors" if self.many_body else "paths, with the strength of each"
        return [facts, "", Text(title, "strong"), self._table_of_outputs()]

    def _facts(self) -> list[tuple[str, str]]:
        per = "channel" if self.pair else "species and channel" if self.many_body else "edge and channel"
        facts = [("method", self.method), ("computed by", self.executor or "nothing"), ("of", self.spec)]
        if self.refusal:
            facts.append(("refused", self.refusal))
        if self.many_body:
            told = f"{self.expressivity} of {self.full}, dimension of what the weights reach of all polynomials"
            facts.append(("expressivity", told))
        else:
            facts.append(("paths", f"{self.reached} of {self.full}" + ("" if self.reached else ": it reaches nothing")))
            told = f"{self.expressivity}, with equivariant linear maps before and after (Clebsch-Gordan: {self.full})"
            facts.append(("expressivity", told))
        facts.append(("weights", f"{self.weights} per {per}, {self.weights_dimension} of them independent"))
        if self.cost is not None:
            told = f"{kilo(self.cost.flops_per_node)} kFLOP and {kilo(self.cost.bytes_per_node)} kB per node"
            if self.pair:
                told = f"{kilo(self.cost.flops_per_edge)} kFLOP and {kilo(self.cost.bytes_per_edge)} kB per row"
            elif not self.many_body:
                told = (
                    f"{kilo(self.cost.flops_per_edge)} kFLOP and {kilo(self.cost.bytes_per_edge)} kB per edge, " + told
                )
            facts.append(("cost", told + "; all channels"))
        elif self.executor:
            facts.append(("cost", "not counted for reference forms"))
        if self.tensor_error is not None:
            facts.append(("tensor error", f"{self.tensor_error:.1e}, of the decomposition, relative (Frobenius norm)"))
        if self.equivariance_error:
            told = ", ".join(f"{error:.1e} in {dtype}" for dtype, error in self.equivariance_error.items())
            facts.append(("equivariance", f"error {told}; measured, relative"))
        return facts

    def _table_of_outputs(self) -> Table:
        outs = list(dict.fromkeys(part.out for part in self.parts))
        of = {out: [part for part in self.parts if part.out == out] for out in outs}
        if self.many_body:
            numbers = sorted({part.name for part in self.parts})
            rows = []
            for out, parts in of.items():
                cells = {part.name: f"{part.reached} of {part.full}" for part in parts}
                rows.append((out, *(cells.get(name, "-") for name in numbers)))
            return Table("", [Column(title) for title in ("output", *numbers)], rows)
        rows = []
        for out, parts in of.items():
            there = [f"{name(part)} ({part.strength:.2f})" for part in parts if part.reached]
            rows.append((out, ", ".join(there) or "-", ", ".join(name(part) for part in parts if not part.reached)))
        return Table("", [Column("into"), Column("reached", fold=True), Column("not reached", fold=True)], rows)


def name(part: Part) -> str:
    """A path without its output."""
    return part.name.partition(" -> ")[0]


def kilo(number: float) -> str:
    """In thousands: ``1.2``, ``34``, ``5,600``."""
    return f"{number / 1000:,.1f}" if number < 9950 else f"{number / 1000:,.0f}"


@dataclass(frozen=True, repr=False)
class Comparison(Printable):
    """Several methods for one spec, side by side; made by :func:`equinet.ops.analysis.compare`."""

    explanations: Sequence[Explanation]
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return {"methods": [found.as_json() for found in self.explanations], "notes": list(self.notes)}

    def blocks(self) -> list[Block]:
        """One row a method, then the legend and the reasons of refusals."""
        many_body, pair = self.explanations[0].many_body, self.explanations[0].pair
        titles = ["expr.", "weights", "kFLOP\n/ node", "kB\n/ node", "error"]
        if pair:
            titles = ["paths", *titles[:2], "kFLOP\n/ row", "kB\n/ row", "error"]
        elif not many_body:
            titles = ["paths", *titles[:2], "kFLOP\n/ edge", "kFLOP\n/ node", "kB\n/ edge", "error"]
        columns = [Column("method", fold=True), *(Column(title, number=True) for title in titles), Column("ok")]
        rows = [(found.method, *self._cells(found), "no" if found.refusal else "yes") for found in self.explanations]
        refusals: dict[str, list[str]] = {}
        for found in self.explanations:
            if found.refusal:
                refusals.setdefault(found.refusal, []).append(found.method)
        legend = LEGEND.replace("per edge and channel", "per channel") if pair else LEGEND
        lines = [LEGEND_MANY_BODY if many_body else legend, *self.notes]
        lines += [f"refused, {' and '.join(methods)}: {why}" for why, methods in refusals.items()]
        return [Text(self.explanations[0].spec, "strong"), Table("", columns, rows), *lines]

    @staticmethod
    def _cells(found: Explanation) -> list[str]:
        cost, errors = found.cost, found.equivariance_error
        told = [f"{errors['float64']:.0e}" if errors else "-"]
        if found.many_body:
            numbers = [f"{found.expressivity}/{found.full}", str(found.weights)]
            return numbers + ([kilo(cost.flops_per_node), kilo(cost.bytes_per_node)] if cost else ["-"] * 2) + told
        numbers = [f"{found.reached}/{found.full}", str(found.expressivity), str(found.weights)]
        if found.pair:
            costs = [kilo(cost.flops_per_edge), kilo(cost.bytes_per_edge)] if cost else ["-"] * 2
            return numbers + costs + told
        flops = [kilo(cost.flops_per_edge), kilo(cost.flops_per_node), kilo(cost.bytes_per_edge)] if cost else ["-"] * 3
        return numbers + flops + told


LEGEND = (
    "paths: couplings reached, of all there are. expr., expressivity: independent numbers that training can choose, with "
    "equivariant linear maps before and after. weights: per edge and channel. FLOPs and bytes: of all channels, by the rule "
    "of equinet.ops.analysis.cost. error: of equivariance, measured in float64, relative; 1e-15 is rounding."
)
LEGEND_MANY_BODY = (
    "expr., expressivity: dimension of what the weights of one species and channel reach, of all equivariant polynomials. weights: "
    "per species and channel. FLOPs and bytes: of all channels, by the rule of equinet.ops.analysis.cost. error: of equivariance, "
    "measured in float64, relative; 1e-15 is rounding."
)
