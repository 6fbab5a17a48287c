"""What waiting requests would find in vLLM's prefix cache, and sessions between two turns."""
