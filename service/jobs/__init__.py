"""Slow work that outlives its request: queued in Redis, carried out by workers, kept as objects."""
