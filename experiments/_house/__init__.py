"""The counters of `experiments.house`, one file per idea; each finds places in a tree of sources."""
