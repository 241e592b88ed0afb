"""Streams image-text shards through encoders into Parquet; owns the contracts that index and model read."""
