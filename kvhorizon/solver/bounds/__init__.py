"""Bounds that no schedule can beat, with every length known."""
