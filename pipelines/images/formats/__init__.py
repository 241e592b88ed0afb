"""Encoded images, each format reduced to the bytes that the pixels of its first frame need."""
