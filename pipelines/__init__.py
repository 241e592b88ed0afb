"""Streams image-text shards through encoders into Parquet; owns the contracts that index and model read."""

import web_memory_names

web_memory_names.check(__file__)
