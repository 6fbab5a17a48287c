"""Compiled code: numba as this project uses it, and the private folders in which its results are kept."""
