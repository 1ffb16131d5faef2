"""Records, tables and pictures of a training run."""
