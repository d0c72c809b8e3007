"""What a user can get wrong, as one typed error with a message that says what and where."""

from __future__ import annotations


class TrainingError(Exception):
    """The request cannot be trained on; the message names the culprit and a way out."""
