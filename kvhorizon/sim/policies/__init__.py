"""Policies by name, and what a scheduler plugin does around the engine's own step."""
