"""Sharded nearest-neighbour search over the key column of an embedded memory."""

import web_memory

web_memory.check_names(__file__)
