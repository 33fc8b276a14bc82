"""Plots of a search: static PNG files and one interactive HTML page."""
