"""Real spherical harmonics of unit vectors, differentiable to any order."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from equinet.ops.coupling.clebsch_gordan import clebsch_gordan

from .constants import ConstantModule


class SphericalHarmonics(ConstantModule):
    r"""Real spherical harmonics of degree 0 to ``max_degree`` of unit vectors, ``component`` normalised.

    Built degree by degree from the coupling of the last degree with the vector itself,

    .. math:: Y_l(\hat r) = a_l \, (Y_{l-1}(\hat r) \otimes \hat r)_l, \qquad |Y_l|^2 = 2 l + 1,

    so it is a polynomial in the components, smooth everywhere, and needs no angle.

    Args:
        max_degree: Highest degree.

    Source:
        e3nn ``o3.spherical_harmonics(normalize=True, normalization="component")``, same order and signs.
    """

    def __init__(self, max_degree: int) -> None:
        super().__init__()
        if max_degree < 0:
            raise ValueError(f"`max_degree` must be 0 or more, got {max_degree}")
        self.max_degree = max_degree
        pole = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)  # e3nn's polar axis is y
        values = math.sqrt(3) * pole
        for degree in range(2, max_degree + 1):
            coupling = clebsch_gordan(degree - 1, 1, degree).flatten(0, 1)  # ((2l-1) * 3, 2l+1)
            at_pole = torch.outer(values, pole).flatten() @ coupling
            # Only m = 0 survives at the pole, where Y_l0 = +sqrt(2l + 1); this fixes size and sign of the whole degree.
            coupling *= math.sqrt(2 * degree + 1) / at_pole[degree]
            values = torch.outer(values, pole).flatten() @ coupling
            self.register_constant(f"coupling_{degree}", coupling)

    def forward(self, unit_vectors: Float[Tensor, "edges 3"]) -> Float[Tensor, "edges harmonics"]:
        """Harmonics of every unit vector.

        Args:
            unit_vectors: Directions of length one; the length is not checked.

        Returns:
            All degrees side by side, ``(max_degree + 1)**2`` columns.
        """
        degrees = [torch.ones_like(unit_vectors[:, :1])]
        if self.max_degree >= 1:
            degrees.append(math.sqrt(3) * unit_vectors)
        for degree in range(2, self.max_degree + 1):
            outer = degrees[-1].unsqueeze(2) * unit_vectors.unsqueeze(1)  # (edges, 2l-1, 3)
            degrees.append(outer.flatten(1) @ getattr(self, f"coupling_{degree}"))
        return torch.cat(degrees, dim=1)

    def extra_repr(self) -> str:
        return f"l <= {self.max_degree}"
