"""The greedy heuristic: the rule that simulator, service and live step share, each formula once."""
