"""kvhorizon: a memory-aware request scheduler for LLM serving."""

__version__ = "0.1.0"
