"""Predictions over HTTP: a page for people and JSON for programs, over one opened recogniser (docs/service.md)."""
