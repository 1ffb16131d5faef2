"""MACE: higher-order equivariant message passing (Batatia et al. 2022, arXiv 2206.07697)."""
