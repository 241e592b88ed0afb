"""Trials and runs, and their files."""
