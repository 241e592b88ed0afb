"""Builds the shards of an index, publishes them, and brings an index up to a changed memory."""
