"""Closed loops on vLLM's own defaults, contenders in paired rounds."""
