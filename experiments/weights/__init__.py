"""Weights that others published, in a form that is loaded here."""
