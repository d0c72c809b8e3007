"""Prepared sets: how they are made, what is said of them, how they are read."""
