"""What `web-memory check` looks at: sources, encoders, and what the work will cost."""
