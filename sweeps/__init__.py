"""Sweeps, one runnable file each, and in `engine` what they run on."""
