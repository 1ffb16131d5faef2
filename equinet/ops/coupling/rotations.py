"""Wigner matrices of real irreps of any degree, from rotation matrices and without angles."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from .clebsch_gordan import clebsch_gordan


def wigner_matrices(rotations: Float[Tensor, "*batch 3 3"], max_degree: int) -> list[Tensor]:
    r"""Wigner matrices :math:`D^l` of proper rotations for degree 0 to ``max_degree``, e3nn's order of components.

    .. math:: D^l_{k k'} = (2 l + 1) \sum_{ij} C_{ijk} \sum_{i'j'} D^{l-1}_{i i'} \, D^1_{j j'} \, C_{i'j'k'}

    with C of :math:`l{-}1 \otimes 1 \to l`, and :math:`D^1` the rotation itself. They are polynomials of its entries, so that
    they are smooth everywhere, and :math:`Y_l(R \hat r) = D^l(R) \, Y_l(\hat r)`.

    Args:
        rotations: Rotation matrices of determinant one; neither that nor their orthogonality is checked.
        max_degree: Highest degree, 0 or more.

    Returns:
        ``(*batch, 2l + 1, 2l + 1)`` for every degree, in the dtype of ``rotations``.

    Raises:
        ValueError: If ``max_degree`` is negative.

    Source:
        Varshalovich et al. 1988, section 4.6.1 (the Clebsch-Gordan series), solved for the highest degree.

    >>> wigner_matrices(torch.eye(3), 2)[2].diagonal().sum().round()
    tensor(5.)
    """
    if max_degree < 0:
        raise ValueError(f"`max_degree` must be 0 or more, got {max_degree}")
    matrices = [torch.ones_like(rotations[..., :1, :1]), rotations][: max_degree + 1]
    for degree in range(2, max_degree + 1):
        coupling = clebsch_gordan(degree - 1, 1, degree).to(rotations)
        half = torch.einsum("...ia,abk->...ibk", matrices[-1], coupling)
        both = torch.einsum("...jb,...ibk->...ijk", rotations, half)
        matrices.append((2 * degree + 1) * torch.einsum("ijl,...ijk->...lk", coupling, both))
    return matrices
