"""Ablations: what can be varied, and the runs of each value."""
