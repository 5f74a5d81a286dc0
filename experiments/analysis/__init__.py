"""What a memory retains, and what a trained model does with it (paper §4.4)."""
