"""What tuning can buy: fronts of the greedy's and of the program's settings."""
