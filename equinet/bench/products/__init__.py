"""Microbenchmarks of single products, of equinet and of other libraries: correctness first, then times."""
