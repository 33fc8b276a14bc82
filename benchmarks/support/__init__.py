"""Code shared by the benchmarks. Users run the scripts in the parent folder, not the modules in this package."""
