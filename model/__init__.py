"""Learns from precomputed neighbour lists: the memory attention module, its baselines, its trainer."""
