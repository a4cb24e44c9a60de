"""Measured search for the best cut of each layer, on the machine that will run it."""
