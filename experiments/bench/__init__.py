"""What things cost: planner, plugin, service, forecasts, simulator, what-if, report."""
