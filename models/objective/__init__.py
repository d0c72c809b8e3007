"""The objective of stage 1 as objects: what trains the three networks together."""
