"""How much the service adds to the bare loop, and what strict arithmetic costs."""
