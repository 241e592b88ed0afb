"""One query at a time: what `index.search` asks for, finds and shows."""
