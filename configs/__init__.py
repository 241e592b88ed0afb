"""Experiments: each module has `get_config()` and says in its docstring how to run it and what to expect."""

import web_memory_names

web_memory_names.check(__file__)
