"""Coupling coefficients in float64: Clebsch-Gordan, Gaunt, Wigner symbols, equivariant polynomials, quadrature, CP factors."""
