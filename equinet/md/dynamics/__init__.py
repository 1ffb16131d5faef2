"""Molecular dynamics that can be stopped at any step and continued bit for bit."""
