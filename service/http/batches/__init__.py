"""Many calls in one file."""
