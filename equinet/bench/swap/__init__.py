"""Training the same potential with every tensor product for the same processor time."""
