"""What the step records of requests, and the thread that learns of it."""
