"""Conversations about a document (paper §4.3)."""
