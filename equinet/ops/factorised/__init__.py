"""Factorised trilinear products z = C^T((A x) * (B y)): algebras, edge convolution, many-body powers."""
