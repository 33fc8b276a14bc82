"""report.html: one self-contained page for a sweep, search, table, evaluation or transfer matrix."""
