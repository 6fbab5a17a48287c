"""Solving the program within a budget: bound, construction, local search, restricted MIP."""
