"""Heads that read texts: the names of the classes, or the captions of memory rows."""
