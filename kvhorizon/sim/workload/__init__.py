"""Request traces: readers, formats, synthetic workloads."""
