"""A page about a run: what was found, how it was trained, what it remembers, how it was made."""
