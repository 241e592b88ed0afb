"""Learns from precomputed neighbour lists: the memory attention module, its baselines, its trainer."""

import web_memory_names

web_memory_names.check(__file__)
