"""A real OpenAI server with a tiny model, its clients and what they measured."""
