"""Kinds of requests: LoRA, structured output, multimodal, and those that pass in vLLM's own order."""
