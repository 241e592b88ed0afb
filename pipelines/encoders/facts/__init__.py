"""What `web-memory encoders` says: which encoders can be named, what one is made of, and how fast it is here."""
