"""Formats whose files contain samples, one module each."""
