"""Sharded nearest-neighbour search over the key column of an embedded memory."""
