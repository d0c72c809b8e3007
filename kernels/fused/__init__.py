"""The operations of `kernels` in Triton, as torch.library operators. Importing it loads Triton."""
