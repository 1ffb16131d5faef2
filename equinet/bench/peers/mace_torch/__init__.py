"""mace-torch as a peer: its models, random weights for them, and its training."""
