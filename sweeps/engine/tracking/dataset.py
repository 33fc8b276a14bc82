"""The images that a model was evaluated on, as MLflow's input of a run."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from mlflow.entities import Dataset, DatasetInput, InputTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, ErrorCode
from mlflow.tracking import MlflowClient
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

from bat_core.config import DataConfig
from bat_core.verdicts import Verdicts


@dataclass(frozen=True, kw_only=True)
class EvaluatedImages:
    """A data set's images by name, split, number, and a digest of which images they are and of their labels."""

    name: str
    split: str
    n: int
    classes: int
    digest: str

    @classmethod
    def of(cls, data: DataConfig, split: str, verdicts: Verdicts) -> "EvaluatedImages":
        """The images behind verdicts."""
        content = [np.ascontiguousarray(part, dtype="<i8").tobytes() for part in (verdicts.rows, verdicts.labels)]
        digest = hashlib.sha256(b"".join(content)).hexdigest()[:16]
        classes = len(set(verdicts.labels.tolist()))
        return cls(name=data.name, split=split, n=len(verdicts), classes=classes, digest=digest)

    def as_input(self) -> DatasetInput:
        """The input, with the split as its context."""
        dataset = Dataset(
            name=self.name,
            digest=self.digest,
            source_type="bat-sweeps",
            source=json.dumps({"name": self.name, "split": self.split}),
            profile=json.dumps({"num_rows": self.n, "num_classes": self.classes, "split": self.split}),
        )
        return DatasetInput(dataset=dataset, tags=[InputTag(MLFLOW_DATASET_CONTEXT, self.split)])

    def log(self, client: MlflowClient, run_id: str) -> None:
        """Make the images an input of a run.

        If several runs of an experiment get the same data set at once, MLflow refuses all but the first, and accepts
        the others once the first is there.

        Raises:
            MlflowException: the server did not answer, or refused twice.
        """
        try:
            client.log_inputs(run_id, [self.as_input()])
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(BAD_REQUEST):
                raise
            client.log_inputs(run_id, [self.as_input()])
