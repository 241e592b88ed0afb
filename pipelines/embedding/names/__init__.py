"""The names of the classes: which texts stand for a class, how often the memory mentions them, their vectors."""
