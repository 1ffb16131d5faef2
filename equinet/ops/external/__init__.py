"""Tensor products of other libraries, one file each."""
