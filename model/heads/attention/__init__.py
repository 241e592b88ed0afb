"""Heads that attend to the neighbours: memory attention and what is built of it."""
