"""Several engines behind a router, and what the failure of one costs."""
