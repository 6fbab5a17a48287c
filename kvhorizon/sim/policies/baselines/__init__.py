"""Other people's schedulers as plugins of the simulated engine: an order, an admission test and a victim score each."""
