"""Heads that train on memory rows as well, as images of the class that their caption names."""
