"""Faults planted in a live engine and its solver."""
