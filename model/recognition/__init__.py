"""Predictions for new photographs: a trained head, its memory and its encoders, opened together."""
