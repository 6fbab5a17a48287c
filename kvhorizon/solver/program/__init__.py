"""The rolling-horizon integer program as arrays: time grid, occupancy, costs, rows kept between plans."""
