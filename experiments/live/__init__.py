"""Experiments on real vLLM engines and servers."""
