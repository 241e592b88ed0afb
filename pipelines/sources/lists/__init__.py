"""Formats that list images, one module each."""
