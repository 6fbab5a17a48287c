"""vLLM's own scheduler and engine core, driven in this process."""
