"""Experiments: each module has `get_config()` and says in its docstring how to run it and what to expect."""
