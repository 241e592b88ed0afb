"""The neighbour lists of all queries as a job."""
