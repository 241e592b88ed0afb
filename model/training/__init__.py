"""Trials, runs, and what is kept of them."""
