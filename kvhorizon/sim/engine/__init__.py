"""vLLM V1's scheduler and KV cache as arrays, in virtual time."""
