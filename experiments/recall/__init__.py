"""Associative recall: single facts, asked for later."""
