"""Crash-safe files, a lock for the folder of a run, and signals handled between two steps."""
