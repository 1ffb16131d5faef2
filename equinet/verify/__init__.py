"""Checks of one potential and of the installation: generated kernels against formulas, physics, optional packages."""
