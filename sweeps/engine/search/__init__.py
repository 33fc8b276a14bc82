"""Hyperparameter search: from a search space to a Pareto front, and from the front to a champion model."""
