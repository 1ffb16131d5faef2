"""Functions on the sphere as functions on a torus, multiplied through the fast Fourier transform."""

from __future__ import annotations

import math

import numpy as np
import torch
from e3nn import o3
from jaxtyping import Complex, Float
from torch import Tensor

from .algebra import Pointwise, harmonics_at, sheets_for, spread


class Torus(Pointwise):
    r"""Pointwise product of functions on the sphere through their two-dimensional Fourier series.

    With the polar angle continued to a full turn, a harmonic is a short Fourier series,
    :math:`Y_{lm} = \sum_{uv} y^{lm}_{uv} e^{i(u\beta + v\alpha)}` with :math:`|u| \le l, v = \pm m`. Coefficients of each input
    are padded with zeros, transformed to points of the torus, multiplied there and transformed back: a convolution of
    Fourier series. The result is exact, with no quadrature.

    ``to_left`` and ``to_right`` hold real and imaginary parts of the coefficients; values are those at points of the torus.

    Args:
        irreps1: First input, one copy of each irrep.
        irreps2: Second input.
        irreps_out: Result.
        factors: Number of factors: the product of one ``irreps1`` and ``factors - 1`` of ``irreps2``.

    Source:
        Luo et al. 2024, arXiv 2401.10216, section 3.2.
    """

    _right_values: Tensor

    def __init__(self, irreps1: o3.Irreps, irreps2: o3.Irreps, irreps_out: o3.Irreps, factors: int = 2) -> None:
        self.sheets = sheets_for(irreps1, irreps2)
        bands = irreps1.lmax + (factors - 1) * irreps2.lmax  # highest frequency of the product
        # Every latitude frequency feeds every output. Longitude frequencies above the outputs' may alias onto one another.
        self.latitudes, self.longitudes = 2 * bands + 1, bands + irreps_out.lmax + 1
        self.waves = self.longitudes // 2 + 1
        super().__init__(self._series(irreps1), self._series(irreps2), self._projection(irreps_out))
        right = self.originals["to_right"].unsqueeze(0)
        self.register_constant("_right_values", self._values(right)[0])

    def _series(self, irreps: o3.Irreps) -> Float[Tensor, "parts dim"]:
        """Fourier coefficients of every component as rows (sheet, real or imaginary, latitude, half of the longitudes)."""
        beta, alpha = (2 * math.pi * np.arange(n) / n for n in (self.latitudes, self.longitudes))
        b, a = np.meshgrid(beta, alpha, indexing="ij")
        points = np.stack([np.sin(b) * np.sin(a), np.cos(b), np.sin(b) * np.cos(a)], axis=-1).reshape(-1, 3)
        values = spread(harmonics_at(points, irreps.lmax), irreps, self.sheets)
        grid = values.unflatten(0, (self.sheets, self.latitudes, self.longitudes))
        series = torch.fft.rfft2(grid, dim=(1, 2), norm="forward")  # irfft2 of these are the values themselves
        series = torch.stack([series.real, series.imag], dim=1)
        return torch.where(series.abs() > 1e-13, series, 0.0).flatten(0, 3)

    def _projection(self, irreps: o3.Irreps) -> Float[Tensor, "dim parts"]:
        r"""Integrals over the sphere of every Fourier mode with every harmonic, as columns like the rows of :meth:`_series`.

        The modes are no polynomials on the sphere; 16 latitudes more than the highest frequency integrate them to rounding.
        """
        nodes, weights = np.polynomial.legendre.leggauss(self.latitudes + irreps.lmax + 16)
        beta = math.pi * (nodes + 1) / 2
        m = np.arange(self.waves)
        count = 2 * (self.waves + irreps.lmax) + 1
        alpha = 2 * math.pi * np.arange(count) / count
        b, a = np.meshgrid(beta, alpha, indexing="ij")
        points = np.stack([np.sin(b) * np.sin(a), np.cos(b), np.sin(b) * np.cos(a)], axis=-1).reshape(-1, 3)
        harmonics = harmonics_at(points, irreps.lmax).unflatten(0, (len(beta), count))
        measure = torch.from_numpy(math.pi / 2 * weights * np.sin(beta)) * (2 * math.pi / count) / (4 * math.pi)
        u = torch.fft.fftfreq(self.latitudes, 1 / self.latitudes, dtype=torch.float64)
        in_beta = torch.exp(1j * u.unsqueeze(1) * torch.from_numpy(beta))  # (latitudes, beta)
        in_alpha = torch.exp(1j * torch.from_numpy(m[:, None] * alpha).double())  # (half, alpha)
        # Modes v and -v come as one: a real function has conjugate coefficients, so they count twice (but not 0, nor the
        # highest of an even number, which does not reach the outputs).
        twice = torch.where(torch.from_numpy(m) == 0, 1.0, 2.0)
        integral = torch.einsum("ub,va,b,bak->kuv", in_beta, in_alpha, measure, harmonics.to(in_beta.dtype)) * twice
        # Re(F I) = Re F Re I - Im F Im I
        both = torch.stack([integral.real, -integral.imag], dim=1).flatten(1)  # (harmonics, parts of one sheet)
        both = torch.where(both.abs() > 1e-14, both, 0.0)
        return spread(both.T, irreps, self.sheets).T / self.sheets

    def left(self, x: Tensor) -> Tensor:
        return self._values(self.to_left @ x)

    def right(self, y: Tensor) -> Tensor:
        return self._values(self.to_right @ y)

    def _values(self, parts: Float[Tensor, "batch parts channels"]) -> Float[Tensor, "batch values channels"]:
        if parts.shape[0] == 0:  # torch's transforms refuse to transform nothing
            return parts[:, :1].expand(-1, self.sheets * self.latitudes * self.longitudes, -1)
        real, imag = parts.unflatten(1, (self.sheets, 2, self.latitudes, self.waves)).unbind(2)
        size = (self.latitudes, self.longitudes)
        return torch.fft.irfft2(torch.complex(real, imag), s=size, dim=(2, 3), norm="forward").flatten(1, 3)

    def back(self, product: Tensor) -> Tensor:
        if product.shape[0] == 0:
            return product[:, :1].expand(-1, len(self.to_out), -1)
        grid = product.unflatten(1, (self.sheets, self.latitudes, self.longitudes))
        series: Complex[Tensor, "..."] = torch.fft.rfft2(grid, dim=(2, 3), norm="forward")
        return self.to_out @ torch.stack([series.real, series.imag], dim=2).flatten(1, 4)

    @property
    def right_values(self) -> Tensor:
        return self._right_values

    def extra_repr(self) -> str:
        return f"torus {self.latitudes} x {self.longitudes}" + (", 2 sheets" if self.sheets == 2 else "")
