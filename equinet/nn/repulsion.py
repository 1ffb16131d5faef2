"""Repulsion of nuclei, so that atoms cannot fall into one another where no training structure has been."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equinet.ops.constants import Float64Buffers
from equinet.ops.edges import Edges

from .radial import envelope

COULOMB = 14.3996  # e² / (4 pi epsilon_0) in eV Å
BOHR = 0.529  # Å, with the digits that MACE uses
DECAY = (3.2, 0.9423, 0.4028, 0.2016)


class ZBL(Float64Buffers):
    r"""Screened Coulomb repulsion of atoms closer than the sum of their covalent radii.

    .. math:: V(r) = f\Big(\frac{r}{R_1 + R_2}\Big) \frac{e^2 Z_1 Z_2}{4 \pi \epsilon_0 \, r} \sum_{k=1}^4 c_k \, e^{-d_k r / a},
              \qquad a = \frac{\alpha \, a_0}{Z_1^\beta + Z_2^\beta}

    with f the polynomial envelope. Half of it goes to each atom.

    Args:
        numbers: Atomic number of each species.
        radii: Covalent radius R of each species in Å.
        power: p of the envelope.

    Attributes:
        c, a_exp, a_prefactor: c, beta and alpha of the formula. MACE has 0.300 and 0.4543 for the last two, where the
            original has 0.23 and 0.8854.
        factor: Factor of the repulsion. 1, but MACE multiplies it by the scale of its energies.

    Source:
        Ziegler, Biersack and Littmark 1985, The Stopping and Range of Ions in Matter; form and numbers as in mace-torch's
        ``ZBLBasis``.
    """

    numbers: Tensor
    radii: Tensor
    c: Tensor
    a_exp: Tensor
    a_prefactor: Tensor
    factor: Tensor

    def __init__(self, numbers: Sequence[int], radii: Sequence[float], power: int) -> None:
        super().__init__()
        self.power = power
        constants = {
            "radii": list(radii),
            "c": [0.1818, 0.5099, 0.2802, 0.02817],
            "a_exp": 0.300,
            "a_prefactor": 0.4543,
            "factor": 1.0,
        }
        for name, value in constants.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.register_buffer("numbers", torch.tensor(list(numbers), dtype=torch.float64), persistent=False)

    def forward(
        self, lengths: Float[Tensor, "rows 1"], species: Int[Tensor, " nodes"], edges: Edges
    ) -> Float[Tensor, " nodes"]:
        """Energy of each node in eV, in the precision of ``lengths`` (Å)."""
        first, second = species[edges.index]
        r, dtype = lengths.squeeze(1), lengths.dtype
        reach = (self.radii[first] + self.radii[second]).to(dtype)
        power = self.numbers**self.a_exp
        screened = r * ((power[first] + power[second]) / (self.a_prefactor * BOHR)).to(dtype)
        c = self.c.to(dtype)
        screening = sum(c[k] * torch.exp(-decay * screened) for k, decay in enumerate(DECAY))
        charges = (COULOMB / 2 * self.factor * self.numbers[first] * self.numbers[second]).to(dtype)
        return edges.sum_on_receivers(charges / r * screening * envelope(r / reach, self.power))

    def extra_repr(self) -> str:
        return f"{len(self.radii)} species, p={self.power}"
