"""Forms of MACE to compare: the product of all axes, a small set in which all pairs of values occur, and forms outside it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from equinet.models import MACEConfig

# First interaction, all others, and what the envelope multiplies; the first is what `mace_run_train` builds by default.
FAMILIES: dict[str, tuple[str, str, str]] = {
    "plain+residual": ("plain", "residual", "basis"),
    "residual": ("residual", "residual", "basis"),
    "density+residual": ("density", "density_residual", "basis"),
    "gated": ("gated", "gated", "weights"),
    "plain": ("plain", "plain", "basis"),
}
AXES: dict[str, tuple[Any, ...]] = {
    "family": tuple(FAMILIES),
    "max_l": (0, 1, 2),
    "correlation": (1, 2, 3),
    "coupling": ("full", "reduced"),
    "transform": ("none", "agnesi", "soft"),
    "zbl": (False, True),
    "heads": (1, 2),
}
CHANNELS = 16
CUTOFF = 5.0  # Å
SIZES_OF = "sizes of "  # how the variants begin that have the sizes of a published model
VECTORS_OF_LAST = "products.1.symmetric_contractions.contractions.1"


@dataclass(frozen=True)
class Case:
    """One form of a MACE model.

    Attributes:
        family: Name in ``FAMILIES``.
        max_l: Highest degree of the features.
        correlation: Correlation of the many-body products.
        coupling: ``"full"``, or ``"reduced"``: cuEquivariance's basis of many-body products, with fewer paths.
        transform: Transform of the distance.
        zbl: True with pair repulsion.
        heads: Number of heads.
        variant: Name of a form outside the product; empty inside.
        changes: Fields of the configuration that make it so.
        switches: Arguments of mace-torch that do.
        file_dtype: Precision of the weights in the file.
        silent: Prefixes of names of weights without influence on the energy.
    """

    family: str = "plain+residual"
    max_l: int = 1
    correlation: int = 2
    coupling: str = "full"
    transform: str = "none"
    zbl: bool = False
    heads: int = 1
    variant: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    switches: Mapping[str, Any] = field(default_factory=dict)
    file_dtype: str = "float64"
    silent: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [self.family, f"L={self.max_l}", f"nu={self.correlation}", self.coupling]
        parts += [self.transform] * (self.transform != "none") + ["zbl"] * self.zbl
        parts.append("1 head" if self.heads == 1 else f"{self.heads} heads")
        return " ".join(parts) + (f"; {self.variant}" if self.variant else "")

    @property
    def config(self) -> MACEConfig:
        """Configuration in equinet."""
        first, others, envelope_on = FAMILIES[self.family]
        return MACEConfig.model_validate(
            {
                "channels": CHANNELS,
                "max_l": self.max_l,
                "correlation": self.correlation,
                "cutoff": CUTOFF,
                "first_interaction": first,
                "interaction": others,
                "envelope_on": envelope_on,
                "distance_transform": self.transform,
                "zbl": self.zbl,
                "exact_isolated_atoms": False,
                **self.changes,
            }
        )

    @property
    def head_names(self) -> list[str]:
        """Names of the heads; a single one has mace-torch's default name."""
        return ["Default"] if self.heads == 1 else [f"head_{n}" for n in range(self.heads)]


def every_case() -> list[Case]:
    """The product of all axes."""
    return [Case(**dict(zip(AXES, values))) for values in itertools.product(*AXES.values())]


def pairwise() -> list[Case]:
    """Few cases in which every pair of values of two axes occurs: always the one that brings most pairs that are missing."""
    cases = every_case()
    pairs = [set(pairs_of(case)) for case in cases]
    missing, chosen = set().union(*pairs), []
    while missing:
        best = max(range(len(cases)), key=lambda n: len(pairs[n] & missing))
        chosen.append(cases[best])
        missing -= pairs[best]
    return chosen


def pairs_of(case: Case) -> Iterator[tuple[tuple[str, Any], tuple[str, Any]]]:
    """Pairs of values of two axes that the case has."""
    values = [(f.name, getattr(case, f.name)) for f in fields(case) if f.name in AXES]
    return itertools.combinations(values, 2)


def extras() -> list[Case]:
    """Forms outside the product: one step from a case of it, in a direction that has no axis."""
    degree, sizes = {"channels": 8}, {"radial_hidden": (32, 16), "bessel_functions": 10, "envelope_power": 6}
    kinds = ("first_interaction", "interaction")
    return [
        Case(correlation=4, variant="correlation 4", changes={**degree, "sh_degree": 1}),
        Case(correlation=4, coupling="reduced", variant="correlation 4", changes={**degree, "sh_degree": 2}),
        *(Case(correlation=3, variant=f"max_ell {l}", changes={"sh_degree": l}) for l in (1, 2)),
        Case(variant="max_ell 4", changes={**degree, "sh_degree": 4}),
        Case(max_l=3, variant="max_L 3", changes=degree),
        Case("residual", heads=2, variant="one layer", changes={"layers": 1, "readout_hidden": 0}),
        Case("residual", heads=2, variant="three layers", changes={"layers": 3}),
        Case(heads=3, variant="readout with biases", changes={"readout_biases": True}),
        Case(heads=2, variant="last readout only", changes={"layers": 3, "readout_layers": "last"}),
        Case(variant="wide readout", changes={"readout_hidden": 32}),
        Case("residual", variant="apply_cutoff False", changes={"envelope_on": "weights"}),
        Case("gated", variant="apply_cutoff True", changes={"envelope_on": "basis"}),
        *(Case(name, variant="edge_irreps", changes={"edge_channels": 8}) for name in ("gated", "residual", "density+residual")),
        Case("gated", max_l=2, variant="edge_irreps, first too", changes={"edge_channels": 8, "edge_channels_first": True}),
        Case(variant="residual, then gated", changes={**dict(zip(kinds, ("residual", "gated"))), "envelope_on": "weights"}),
        Case(variant="density twice", changes=dict.fromkeys(kinds, "density")),
        Case(variant="density_residual twice", changes=dict.fromkeys(kinds, "density_residual")),
        Case(variant="other radial sizes", changes=sizes),
        Case(variant="keep_last_layer_irreps", switches={"keep_last_layer_irreps": True}, silent=(VECTORS_OF_LAST,)),
        Case(variant="use_agnostic_product", switches={"use_agnostic_product": True}),
        Case(max_l=2, correlation=3, transform="agnesi", zbl=True, variant="float32 file", file_dtype="float32"),
        Case("gated", variant="float32 file", file_dtype="float32"),
        *_of_published_size(),
    ]  # fmt: skip


def _of_published_size() -> list[Case]:
    """Random models with the sizes of published ones, for the times that their holders will see."""
    mp = {"channels": 128, "cutoff": 6.0, "bessel_functions": 10}
    heads = {"channels": 512, "edge_channels": 128, "cutoff": 6.0, "readout_biases": True}
    return [
        Case("residual", 0, 3, variant=SIZES_OF + "MP-0 small", changes=mp),
        Case("residual", 1, 3, variant=SIZES_OF + "MP-0 medium", changes=mp),
        Case("residual", 2, 3, variant=SIZES_OF + "MP-0 large", changes=mp),
        Case("density+residual", 1, 3, transform="agnesi", zbl=True, variant=SIZES_OF + "MPA-0", changes=mp),
        Case(max_l=1, correlation=3, variant=SIZES_OF + "OFF23 medium", changes={"channels": 128}),
        Case("gated", 1, 3, "reduced", "agnesi", True, 6, SIZES_OF + "MH-1", heads, {"use_agnostic_product": True}),
    ]


def select(cases: Iterable[Case], only: Sequence[str]) -> list[Case]:
    """Those whose text contains all of ``only``.

    Raises:
        ValueError: If there is none.
    """
    cases = list(cases)
    found = [case for case in cases if all(text in str(case) for text in only)]
    if not found:
        raise ValueError(
            f"`only`: none of the {len(cases)} cases contains {' and '.join(map(repr, only))}; a case reads "
            f"'{cases[0]}', and {len(every_case())} are there with `all`"
        )
    return found
