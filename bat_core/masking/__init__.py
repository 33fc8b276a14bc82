"""Checks for gradient masking, and an inspection of models that users bring."""
