"""How a network is evaluated: as it is, recorded on CUDA, or compiled ahead of time."""
