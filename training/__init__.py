"""Turns data into a checkpoint, and measures it. Knows `models`."""
