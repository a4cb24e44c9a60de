"""Searches for the cheapest compilation that is accurate enough: sensitivity, mixed precision, the ladder."""
