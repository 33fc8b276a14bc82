"""The command `evaluate`: attack models, check them for gradient masking, and report their robustness."""
