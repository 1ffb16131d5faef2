"""Transforms of the distance by covalent radii, as input of the radial basis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equinet.ops.constants import Float64Buffers


class DistanceTransform(Float64Buffers, ABC):
    """A smooth function of the distance of two atoms that depends on their covalent radii.

    Args:
        radii: Covalent radius of each species in Å.
    """

    radii: Tensor

    def __init__(self, radii: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("radii", torch.tensor(list(radii), dtype=torch.float64))

    def forward(self, lengths: Float[Tensor, "rows 1"], species: Int[Tensor, "2 rows"]) -> Float[Tensor, "rows 1"]:
        """The transformed distance.

        Args:
            lengths: Lengths in Å.
            species: Species of the two atoms of each row, in any order.
        """
        sizes = self.radii.to(lengths.dtype)
        return self.of(lengths, (sizes[species[0]] + sizes[species[1]]).unsqueeze(1))

    @abstractmethod
    def of(self, lengths: Float[Tensor, "rows 1"], contact: Float[Tensor, "rows 1"]) -> Float[Tensor, "rows 1"]:
        """The transformed distance of atoms whose covalent radii sum to ``contact``, all in Å."""


class AgnesiTransform(DistanceTransform):
    r"""A number between 1, for atoms on one spot, and 0, far away, that varies most where atoms are close.

    .. math:: x = \Big( 1 + \frac{a \, s^q}{1 + s^{q - p}} \Big)^{-1}, \qquad s = \frac{2 r}{r_1 + r_2}

    Args:
        radii: Covalent radius of each species in Å.

    Attributes:
        a, q, p: Parameters of the formula; MACE's values.

    Source:
        Witt et al. 2023 (ACEpotentials.jl), J. Chem. Phys. 159, 164101, section on radial transformations; MACE-MP-0b.
    """

    a: Tensor
    q: Tensor
    p: Tensor

    def __init__(self, radii: Sequence[float]) -> None:
        super().__init__(radii)
        for name, value in (("a", 1.0805), ("q", 0.9183), ("p", 4.5791)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))

    def of(self, lengths: Float[Tensor, "rows 1"], contact: Float[Tensor, "rows 1"]) -> Float[Tensor, "rows 1"]:
        a, q, p = (number.to(lengths.dtype) for number in (self.a, self.q, self.p))
        s = 2 * lengths / contact
        return 1 / (1 + a * s**q / (1 + s ** (q - p)))

    def extra_repr(self) -> str:
        return f"a={self.a:.4g}, q={self.q:.4g}, p={self.p:.4g}"


class SoftTransform(DistanceTransform):
    r"""The distance, kept from falling below three quarters of the length of a bond.

    .. math:: x = p_0 + (r - p_0) \, \tfrac12 \Big( 1 + \tanh \frac{\alpha (r - (p_0 + p_1) / 2)}{p_1 - p_0} \Big),
              \qquad p_0 = \tfrac34 (r_1 + r_2), \quad p_1 = \tfrac43 (r_1 + r_2)

    Args:
        radii: Covalent radius of each species in Å.

    Attributes:
        alpha: Steepness; MACE's value.

    Source:
        mace-torch, ``SoftTransform``.
    """

    alpha: Tensor

    def __init__(self, radii: Sequence[float]) -> None:
        super().__init__(radii)
        self.register_buffer("alpha", torch.tensor(4.0, dtype=torch.float64))

    def of(self, lengths: Float[Tensor, "rows 1"], contact: Float[Tensor, "rows 1"]) -> Float[Tensor, "rows 1"]:
        low, high = contact * (3 / 4), contact * (4 / 3)
        steepness = self.alpha.to(lengths.dtype) / (high - low)
        return low + (lengths - low) * (1 + torch.tanh(steepness * (lengths - (low + high) / 2))) / 2

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:.4g}"


TRANSFORMS: dict[str, type[DistanceTransform]] = {"agnesi": AgnesiTransform, "soft": SoftTransform}
