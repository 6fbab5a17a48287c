"""Is control worse than vLLM alone? Short windows of either, a sequential test, and stepping back (decision 018)."""
