"""Kernels by operation, each with operator, CPU code, GPU code and reference: edge, node, power, row, linear."""
