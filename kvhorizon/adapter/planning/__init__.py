"""The thread beside the step and the solver that it asks: a child, one per host, or a shared service."""
