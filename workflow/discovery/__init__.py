"""Looking at a folder of a user: what it is, what is in it, how it is split, and a config that reads it."""
