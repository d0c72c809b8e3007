"""The API process: HTTP on one side, an `Engine` on the other. No torch here."""
