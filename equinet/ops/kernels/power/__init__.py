"""Powers in a pointwise algebra (grid points, CP terms) for GPUs."""
