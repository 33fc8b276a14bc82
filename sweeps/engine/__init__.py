"""What sweeps run on: options, Ray, records, MLflow, the table and the figures."""
