"""The training task as arrays, in memory, on the device or on disk."""
