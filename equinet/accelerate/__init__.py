"""Faster execution of a finished potential: torch.compile and CUDA graphs."""
