"""Settings of all tests."""

import os
import pathlib

import hypothesis

# Tests compile the same small programs again and again, in many processes.
_CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# They run for less time than they compile; without optimization a third less.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# The same examples in every run, however slow the machine; `--hypothesis-profile=random` looks for others.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random")
hypothesis.settings.load_profile("fixed")
