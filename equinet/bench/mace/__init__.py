"""Comparison with mace-torch: every form of MACE, read from its file, with errors, limits and the ratio of times."""
