"""Builds, updates and publishes an index."""
