"""Encoders: handles resolved to models, the built-in models, and models called in batches."""
