"""gRPC: `ul.v1`, the same calls as HTTP's under the same rules, on a port of its own."""
