"""Reproduction of the paper: its reported numbers, its tables and Figure 1, and the comparison with ours."""
