"""Streams image-text shards through encoders into Parquet; owns the contracts that index and model read."""

import web_memory

web_memory.check_names(__file__)
