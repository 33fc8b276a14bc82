"""MLflow's loader for our models: from safetensors, without pickle.

`mlflow.pyfunc.load_model(uri)` returns a model whose `predict` maps images (N, C, H, W) in [0, 1] to
logits (N, K). Its `get_raw_model()` returns the torch module, in evaluation mode, for attacks.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bat_core.checkpoint import load_model


class ImageClassifier:
    """The model that MLflow's pyfunc wraps."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def predict(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        with torch.no_grad():
            logits = self.module(torch.from_numpy(np.asarray(images, dtype=np.float32)))
        return logits.numpy()

    def get_raw_model(self) -> nn.Module:
        """The torch module."""
        return self.module


def _load_pyfunc(path: str) -> ImageClassifier:
    module, _ = load_model(path)
    return ImageClassifier(module)
