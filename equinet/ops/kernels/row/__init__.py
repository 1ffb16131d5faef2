"""Functions of the few numbers of a row (edge vectors, SiLU) in one sweep."""
