"""What the service says of itself, and what its operator may change."""
