"""What the checkpoints of a run are worth: steps, sizes, health, configuration."""
