"""Checkpoints in `.npz`, as towers."""
