"""Formats whose files hold samples, one module each."""
