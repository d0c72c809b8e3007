"""What is of clips alone: known frames, and clips longer than the networks were trained on."""
