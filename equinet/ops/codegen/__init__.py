"""Code generators: LLVM for the CPU, Triton source for GPUs, straight-line scalar programs, threads."""
