"""The command `transfer`: craft images on each model, classify them with all models, and report the matrix."""
