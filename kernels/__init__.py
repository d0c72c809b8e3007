"""Fast arithmetic, each operation beside its slow truth. Knows torch."""
