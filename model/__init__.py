"""Learns from precomputed neighbour lists: the memory attention module, its baselines, its trainer."""

import web_memory

web_memory.check_names(__file__)
