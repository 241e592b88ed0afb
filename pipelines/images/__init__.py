"""Encoded images of strangers to pixels: bounded, decoded, brought to an encoder's size."""
