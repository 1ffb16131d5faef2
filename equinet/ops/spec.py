"""Specifications of products: plain, checked, printable. The methods that compute them are in :mod:`equinet.ops.methods`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from e3nn import o3

from .layout import channels_of

# Of features: above all that potentials have (some 500), and little enough for any computer.
MOST_CHANNELS = 16_384
# Degrees of irreps: far above what potentials have. Harmonics, couplings and products know no bound, but memory does: the tensor of a
# product grows with the sixth power of the degree.
MOST_DEGREE = 32
# Factors of a many-body product; body orders above eight are not in use.
MOST_FACTORS = 7


def require_channels(irreps: o3.Irreps) -> None:
    """Refuse irreps of which there are too many, or none. e3nn counts some of them one by one, for hours or until memory ends.

    Raises:
        ValueError: Names the bound.
    """
    require_degrees(irreps)
    for channels, ir in irreps:
        if not 1 <= channels <= MOST_CHANNELS:
            raise ValueError(
                f"features must have 1 to {MOST_CHANNELS:,} channels, but {channels}x{ir} has {channels:,}"
            )


def require_degrees(irreps: o3.Irreps) -> None:
    """Refuse irreps of degrees beyond all use.

    Raises:
        ValueError: Names the bound.
    """
    for _, ir in irreps:
        if ir.l > MOST_DEGREE:
            raise ValueError(f"degrees go up to {MOST_DEGREE}, but {ir} is of degree {ir.l:,}; leave it out")


class Path(NamedTuple):
    """One coupling: irrep ``i1`` of the first input with irrep ``i2`` of the second, into degree and parity ``out``."""

    i1: int
    i2: int
    out: o3.Irrep


@dataclass(frozen=True)
class TensorProductSpec:
    r"""Channel-wise product of features with another input: of one channel, each path kept apart, or of as many, paths summed.

    .. math:: z^{p}_{k c} = w_{p c} \sqrt{2 l_3 + 1} \sum_{ij} C^{l_1 l_2 l_3}_{ijk} \, x_{i c} \, y_j,
              \qquad p = (l_1, l_2 \to l_3)

    This is what MACE and NequIP compute on an edge (e3nn's ``uvu`` with one copy of the harmonics). The paths are all
    couplings whose output is one of ``outputs``, ordered by output irrep, then by ``i1``, then by ``i2`` (MACE's order).

    The result has shape ``(batch, rows, channels)``. Its rows are grouped by output irrep; within one, the component is
    the slow index and the path the fast one, so that ``rows x channels`` of a degree reads as a matrix
    ``(2l + 1, paths * channels)``, ready for the linear map that follows.

    Where the second input has channels too it is a **pair product**, channel c with channel c and summed over paths:

    .. math:: z_{k c} = \sum_p w_{p c} \sqrt{2 l_3 + 1} \sum_{ij} C^p_{ijk} \, x_{i c} \, y_{j c}

    This is e3nn's ``uuu``. Between linear maps of the channels of each irrep it is a ``uvw`` whose weights have the rank C, and of all
    pairs of channels, ``x.repeat_interleave(C2, 2)`` and ``y.repeat(1, 1, C1)``, it is ``uvuv``. The rows are one copy of each output
    irrep, in order.

    Args:
        irreps_in1: Features, equal multiplicities, e.g. ``64x0e+64x1o``.
        irreps_in2: One copy of each irrep, e.g. ``0e+1o+2e+3o``, or for a pair product as many channels as ``irreps_in1`` has.
        outputs: Irreps to keep; multiplicities are ignored.
        pair: True for a pair product; by default it is one if ``irreps_in2`` has several channels. To be said of one channel only.

    Raises:
        ValueError: If multiplicities differ or are more than 16,384, a degree is above 32, the channels of ``irreps_in2`` are neither one
            nor those of ``irreps_in1``, or no path reaches an output.
    """

    irreps_in1: o3.Irreps
    irreps_in2: o3.Irreps
    outputs: o3.Irreps
    pair: bool | None = None
    paths: tuple[Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("irreps_in1", "irreps_in2", "outputs"):
            object.__setattr__(self, name, o3.Irreps(getattr(self, name)))
        channels_of(self.irreps_in1)
        require_channels(self.irreps_in1)
        for irreps in (self.irreps_in2, self.outputs):
            require_degrees(irreps)
        channels2 = channels_of(self.irreps_in2)
        object.__setattr__(self, "pair", channels2 != 1 if self.pair is None else self.pair)
        if channels2 != (self.channels if self.pair else 1):
            allowed = f"as many as `irreps_in1`, {self.channels}, in a pair product, else one"
            raise ValueError(f"`irreps_in2` has {channels2} channels and must have {allowed}; got {self.irreps_in2}")
        paths = [
            Path(i1, i2, out)
            for out in sorted({ir for _, ir in self.outputs})
            for i1, (_, ir1) in enumerate(self.irreps_in1)
            for i2, (_, ir2) in enumerate(self.irreps_in2)
            if out in ir1 * ir2
        ]
        if not paths:
            raise ValueError(f"no coupling of {self.irreps_in1} with {self.irreps_in2} reaches {self.outputs}")
        object.__setattr__(self, "paths", tuple(paths))

    @property
    def channels(self) -> int:
        """Channels of the first input and of the result."""
        return channels_of(self.irreps_in1)

    @property
    def paths_per_output(self) -> dict[o3.Irrep, int]:
        """Number of paths into each output irrep, in the order of the result's rows."""
        return dict(Counter(path.out for path in self.paths))

    @property
    def copies(self) -> dict[o3.Irrep, int]:
        """Copies of each output irrep in the result: one for each path, or one for the sum of all in a pair product."""
        counts = self.paths_per_output
        return dict.fromkeys(counts, 1) if self.pair else counts

    @property
    def rows(self) -> int:
        """Rows of the result: the sum of 2 l + 1 over the copies of each output."""
        return sum(out.dim * copies for out, copies in self.copies.items())

    def row_of(self, path_index: int) -> list[int]:
        """Rows of the result that hold the components of one path, or to which they are added."""
        path = self.paths[path_index]
        counts = self.copies
        before = sum(out.dim * n for out, n in counts.items() if out < path.out)
        within = 0 if self.pair else sum(1 for other in self.paths[:path_index] if other.out == path.out)
        return [before + component * counts[path.out] + within for component in range(path.out.dim)]

    def __str__(self) -> str:
        second = str(self.irreps_in2) if self.pair else "+".join(str(ir) for _, ir in self.irreps_in2)
        reached = ", ".join(f"{n} to {out}" for out, n in self.paths_per_output.items())
        return f"{self.irreps_in1} ⊗ {second}, {len(self.paths)} paths{' summed' if self.pair else ''}: {reached}"


@dataclass(frozen=True)
class ManyBodySpec:
    r"""All products of up to ``correlation`` copies of one node's features, weighted per species and channel.

    .. math:: B_{k c} = \sum_{\nu=1}^{\text{correlation}} \sum_{\eta} w^{z}_{\nu \eta c} \, P^{\nu\eta}_k(A_{\cdot c})

    where the :math:`P^{\nu\eta}` span every equivariant homogeneous polynomial of degree :math:`\nu`
    (:mod:`equinet.ops.coupling.polynomials`).

    Args:
        irreps_in: Features, equal multiplicities, at most one entry per irrep.
        irreps_out: Irreps of the result, with the same multiplicity.
        correlation: Highest number of factors, 1 to 7.
        species: Number of chemical elements that have weights of their own.

    Raises:
        ValueError: If multiplicities differ or are more than 16,384, a degree is above 32, an irrep appears twice, or ``correlation`` or
            ``species`` is out of range.

    Source:
        MACE, arXiv 2206.07697, eq. 10 (there with U matrices, an overcomplete set of the same polynomials).
    """

    irreps_in: o3.Irreps
    irreps_out: o3.Irreps
    correlation: int
    species: int

    def __post_init__(self) -> None:
        for name in ("irreps_in", "irreps_out"):
            irreps = o3.Irreps(getattr(self, name))
            object.__setattr__(self, name, irreps)
            if len({ir for _, ir in irreps}) != len(irreps):
                raise ValueError(f"`{name}` must name each irrep once, got {irreps}")
        if channels_of(self.irreps_in) != channels_of(self.irreps_out):
            raise ValueError(f"channels must agree, got {self.irreps_in} -> {self.irreps_out}")
        require_channels(self.irreps_in)
        require_degrees(self.irreps_out)
        if not 1 <= self.correlation <= MOST_FACTORS:
            raise ValueError(f"`correlation` must be 1 to {MOST_FACTORS}, got {self.correlation}")
        if self.species < 1:
            raise ValueError(f"`species` must be 1 or more, got {self.species}")

    @property
    def channels(self) -> int:
        """Channels of features and result."""
        return channels_of(self.irreps_in)

    def __str__(self) -> str:
        return f"{self.irreps_in} ^ 1..{self.correlation} -> {self.irreps_out}, {self.species} species"


def highest_degree(spec: TensorProductSpec | ManyBodySpec) -> int:
    """Highest degree of inputs and output."""
    if isinstance(spec, ManyBodySpec):
        return max(spec.irreps_in.lmax, spec.irreps_out.lmax)
    return max(spec.irreps_in1.lmax, spec.irreps_in2.lmax, *(out.l for out in spec.paths_per_output))
