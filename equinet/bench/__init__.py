"""Benchmarks: single tensor products, whole models, mace-torch parity, and products swapped inside a potential."""
