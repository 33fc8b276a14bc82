"""Runnable sweeps, one per file, and the `engine` they run on."""
