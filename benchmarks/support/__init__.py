"""Code that the benchmarks share. Nothing in this package is run by itself; the scripts beside it are."""
