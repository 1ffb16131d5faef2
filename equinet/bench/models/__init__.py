"""Whole models side by side: training step, energies and forces, MD step, memory; equinet alone or beside mace-torch."""
