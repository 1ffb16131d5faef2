"""Benchmarks: single tensor products, whole models, comparison with mace-torch, products in a potential, trainings side by side."""
