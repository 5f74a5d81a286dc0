"""What is not yet measured better than the default on any device."""
