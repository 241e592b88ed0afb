"""Two frozen encoders are taught one space by a linear layer behind each; the command is `model.align`."""
