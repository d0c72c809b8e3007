"""What a run does about its own figures: hold a bitrate, notice a collapse. Policies only."""
