"""Recall and cost of a shard and of a whole index."""
