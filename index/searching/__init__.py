"""One query at a time, for a person."""
