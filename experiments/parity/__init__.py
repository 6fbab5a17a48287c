"""Is the simulated engine the real one: decisions step by step, and seconds."""
