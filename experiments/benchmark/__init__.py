"""How fast the memory and the models are, on this machine."""
