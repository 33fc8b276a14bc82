"""The numeric core of bat-sweeps: train, attack and evaluate image classifiers under an L-infinity threat model.

It depends only on torch, torchvision, numpy and pyarrow, and on safetensors for checkpoints. It never imports
ray, optuna or mlflow.
"""

__version__ = "0.1.0"
