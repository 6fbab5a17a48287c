"""Forecasts of output length and of returning sessions, as curves that compiled code reads."""
