"""Attention over [compressed | short-term | current]."""
