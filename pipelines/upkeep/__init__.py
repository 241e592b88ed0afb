"""A memory that changes: rows removed for good, files compacted, and the proof that nothing is left."""
