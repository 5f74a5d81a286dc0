"""What a training step needs on a mesh of devices, from its compiled program."""
