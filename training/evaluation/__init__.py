"""Checkpoints, measured: units of work, the judge of labels, figures and the page."""
