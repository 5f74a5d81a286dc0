"""Language models that remember the whole document (paper §4.2)."""
