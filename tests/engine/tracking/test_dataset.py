"""The images of a run as MLflow's input, where several runs log the same at once."""

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, INTERNAL_ERROR

from sweeps.engine.tracking.dataset import EvaluatedImages

IMAGES = EvaluatedImages(name="digits", split="test", n=60, classes=10, digest="0123456789abcdef")


class Server:
    """Refuses the first requests with the given errors, and takes those after them."""

    def __init__(self, *errors):
        self.errors, self.taken = list(errors), []

    def log_inputs(self, run_id, inputs):
        if self.errors:
            raise MlflowException("UNIQUE constraint failed", error_code=self.errors.pop(0))
        self.taken.append((run_id, [one.dataset.digest for one in inputs]))


def test_a_run_whose_images_another_logs_at_once_gets_them_too():
    server = Server(BAD_REQUEST)
    IMAGES.log(server, "run")
    assert server.taken == [("run", [IMAGES.digest])]


@pytest.mark.parametrize("errors", [(BAD_REQUEST, BAD_REQUEST), (INTERNAL_ERROR,)])
def test_what_is_refused_otherwise_is_raised(errors):
    server = Server(*errors)
    with pytest.raises(MlflowException):
        IMAGES.log(server, "run")
    assert server.taken == []
