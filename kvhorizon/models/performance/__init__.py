"""What an engine can do: GPU, model shape, FLOPs, seconds of a step, blocks in the pool."""
