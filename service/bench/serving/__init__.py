"""`ul-serve bench-serve`: the service under load, beside three ways to serve the same weights."""
