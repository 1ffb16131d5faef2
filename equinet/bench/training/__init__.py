"""Training of equinet and mace-torch side by side: same frames, batches, sizes, loss and learning rate."""
