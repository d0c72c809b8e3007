"""Turns requests into images and latents. Only the engine process knows `models`."""
