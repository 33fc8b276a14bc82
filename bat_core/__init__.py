"""The numeric core of bat-sweeps: train, attack and judge image classifiers under an L-infinity threat.

Needs torch, torchvision, numpy and pyarrow alone (and safetensors to read and write checkpoints);
it never imports ray, optuna or mlflow.
"""

__version__ = "0.1.0"
