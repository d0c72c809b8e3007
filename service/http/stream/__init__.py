"""Server-sent events: what is worth telling, how it is written, and clients that never read."""
