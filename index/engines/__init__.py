"""Searchers of one shard: exact and ScaNN, their plans and partitions."""
