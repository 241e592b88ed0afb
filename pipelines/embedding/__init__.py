"""The embedding job: plan, shards in, vectors out."""
