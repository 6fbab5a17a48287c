"""What evictions cost, exactly."""
