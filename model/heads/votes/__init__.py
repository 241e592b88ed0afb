"""Heads in which labelled or captioned images vote for their classes."""
