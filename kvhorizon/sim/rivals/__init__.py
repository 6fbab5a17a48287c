"""Other people's schedulers as guests of the simulated engine: an order, an admission test and a victim score each."""
