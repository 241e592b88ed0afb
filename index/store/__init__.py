"""An index on storage: its shards, their manifest, and the reader that searches them."""
