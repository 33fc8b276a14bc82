"""Classifiers by name. A new file here that registers a builder is a new model."""

from bat_core.models.base import MODELS, ImageShape, build_model, model_names

__all__ = ["MODELS", "ImageShape", "build_model", "model_names"]
