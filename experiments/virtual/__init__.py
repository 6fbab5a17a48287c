"""vLLM's real scheduler with the real plugin under a virtual clock."""
