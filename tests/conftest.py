"""Settings of all tests."""

import os
import pathlib
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.model.recognition.line import Line

# Tests compile the same small programs again and again, in many processes.
_CACHE = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# They run for less time than they compile: no optimization, no slow passes of LLVM, no emitters of MLIR, and one module
# for each program. A JAX that has lost one of these flags ends with its name.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)

# The same examples in every run, however slow the machine; `--hypothesis-profile=random` looks for others.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
hypothesis.settings.register_profile("random")
hypothesis.settings.load_profile("fixed")


@pytest.fixture(scope="session")
def line(tmp_path_factory: pytest.TempPathFactory) -> "Line":
    """Returns a line from images to trained heads that tests read, and copy before they write."""
    # Not before the settings above, which its imports read.
    from tests.model.recognition.line import Line

    return Line(tmp_path_factory.mktemp("recognition")).run()
