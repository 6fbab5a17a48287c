"""`python -m kvhorizon` is the command line."""

from kvhorizon.cli import main

main()
