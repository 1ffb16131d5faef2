"""From the model's numbers to an energy in eV."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from equinet.ops.constants import Float64Buffers
from equinet.ops.devices import made_on_cpu

LARGEST_ENERGY = 1e7  # eV; an atom of the heaviest element with all its electrons has -1.5e6 eV


class EnergyScale(Float64Buffers):
    r"""Reference energies, scale and shift, in float64 whatever the model is in.

    Total energies are thousands of eV and their differences meV, too much for seven digits.

    .. math:: E_i = E^0_{z_i} + g_i \, (s_{z_i} \, \epsilon_i + t_{z_i}), \qquad g_i = \tanh n_i

    :math:`\epsilon_i` is the model's output and :math:`n_i = \sum_j f(r_{ij})` a smooth count of neighbours (f is the
    envelope). The gate g is 1 for any atom in a bond or a solid and goes smoothly to 0 for an atom that leaves, so that an
    isolated atom has exactly its reference energy although the shift, the mean interaction energy, is several eV.
    ``exact_isolated_atoms=False`` sets g = 1, which is MACE's form.

    Args:
        reference: E0 of each species in eV.
        scale: s of each species, in eV.
        shift: t of each species, in eV.
        exact_isolated_atoms: True to use the gate.

    Raises:
        ValueError: If the three lists differ in length or hold a value that is not finite.
    """

    reference: Tensor
    scale: Tensor
    shift: Tensor

    @made_on_cpu
    def __init__(
        self,
        reference: Sequence[float],
        scale: Sequence[float],
        shift: Sequence[float],
        *,
        exact_isolated_atoms: bool = True,
    ) -> None:
        super().__init__()
        if not len(reference) == len(scale) == len(shift):
            raise ValueError(
                f"`reference`, `scale` and `shift` need one value per species, got {len(reference)}, {len(scale)}, {len(shift)}"
            )
        self.exact_isolated_atoms = exact_isolated_atoms
        for name, values in (("reference", reference), ("scale", scale), ("shift", shift)):
            tensor = torch.tensor(list(values), dtype=torch.float64)
            if not tensor.isfinite().all():
                raise ValueError(f"`{name}` must be finite numbers, got {list(values)}")
            self.register_buffer(name, tensor)

    def out_of_bounds(self) -> str | None:
        """Reason why the numbers are none of energies of atoms; None if they may be."""
        for name in ("reference", "scale", "shift"):
            if bool((getattr(self, name).abs() > LARGEST_ENERGY).any()):
                return f"`{name}` is beyond {LARGEST_ENERGY:g} eV"
        return None

    def forward(
        self, output: Float[Tensor, " nodes"], coordination: Float[Tensor, " nodes"], species: Int[Tensor, " nodes"]
    ) -> Float[Tensor, " nodes"]:
        """Energy of each node in eV, float64.

        Args:
            output: The model's dimensionless energies.
            coordination: Smooth count of each node's neighbours.
            species: Index of each node's species.
        """
        interaction = self.scale[species] * output.double() + self.shift[species]
        if self.exact_isolated_atoms:
            interaction = torch.tanh(coordination.double()) * interaction
        return self.reference[species] + interaction

    def extra_repr(self) -> str:
        gate = "tanh(n_i) · " if self.exact_isolated_atoms else ""
        same = len(set(self.scale.tolist())) == len(set(self.shift.tolist())) == 1
        values = f"({self.scale[0]:.4g} ε_i {self.shift[0]:+.4g})" if same else "(s_z ε_i + t_z)"
        return f"E_i = E0_z + {gate}{values} eV"
