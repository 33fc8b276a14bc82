"""Runs a sweep from options to results. Imports all packages below: `storage` to `ray_backend`."""
