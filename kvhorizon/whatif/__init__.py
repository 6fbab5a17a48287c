"""What-if: one trace, one engine, several policies; sweeps, searches, inspection."""
