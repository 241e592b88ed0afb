"""The embed stage: shards of images and texts in, shards of vectors out."""
