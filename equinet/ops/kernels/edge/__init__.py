"""Edge convolution: gather, tensor product with harmonics, sum on receivers."""
