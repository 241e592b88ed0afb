"""Which rows of a memory may be used, by their own fields, by lists of opt-outs and by comparison."""
