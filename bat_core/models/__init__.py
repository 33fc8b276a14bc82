"""Classifiers by name. A new file that registers a builder here adds a model."""

from bat_core.models.base import MODELS, ImageShape, build_model, model_names

__all__ = ["MODELS", "ImageShape", "build_model", "model_names"]
