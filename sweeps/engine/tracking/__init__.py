"""Mirrors records to MLflow. Imports `storage`, `sweep` and `cli`; no other package imports MLflow.

MLflow reads the settings below when it is imported. Requests are not retried: a late request that is sent twice would
create two runs, and whatever a dead server misses is still in the records.
"""

import os

os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ASYNC_LOGGING", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout shows the live table
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
