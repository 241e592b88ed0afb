"""Transformers of published checkpoints, image and text towers, as TensorFlow SavedModels; no PyTorch is needed."""
