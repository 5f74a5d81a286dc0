"""Sorting tokens by frequency (paper §4.1)."""
