"""Calls that are answered later: the job in their place, how it is shown, parts of its answer."""
