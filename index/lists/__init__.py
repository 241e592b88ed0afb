"""Looks up the neighbour lists of all queries, as a job."""
