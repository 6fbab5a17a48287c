"""What finished and running requests teach: survival curves per key, guarded against drift."""
