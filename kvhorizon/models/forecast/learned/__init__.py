"""A learned forecast: features, trees, training, and validation in time order."""
