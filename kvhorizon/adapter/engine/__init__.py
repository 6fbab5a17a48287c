"""What the plugin reads of vLLM's scheduler, and the queue that it presents to it."""
