"""Searchers over the keys of one shard, and how a shard is planned."""
