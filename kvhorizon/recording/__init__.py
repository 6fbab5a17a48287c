"""Recordings of a live engine: one Parquet row per request, in a folder of complete files. No prompt text, ever."""
