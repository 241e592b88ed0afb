"""Which rows of a memory may be used: by their own fields, by opt-out lists and by comparison with other rows."""
