"""The paper: its mathematics, its networks, its samplers. Knows `kernels`."""
