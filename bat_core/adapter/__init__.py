"""Stands between the code of strangers and ours: imports it, reports what it raises, wraps its models."""
