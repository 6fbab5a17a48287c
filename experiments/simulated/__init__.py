"""Experiments in the simulator: who is better, by how much, and why."""
