"""The models behind the built-in encoders, and the reader of their old checkpoints."""
