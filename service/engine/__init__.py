"""The seam: one engine process behind `Engine`, and what travels between them. No torch here."""
