"""What shows that the fused kernels are right and fast, with and without a GPU."""
