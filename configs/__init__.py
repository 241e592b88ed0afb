"""Experiments: each module has `get_config()` and says in its docstring how to run it and what to expect."""

import web_memory

web_memory.check_names(__file__)
