"""Every reader on bytes that nobody wrote, for a second each or, with `FUZZ_SECS=60`, as long as one likes.

`FUZZ_SEED` chooses other bytes. What was found has a case of its own in the test of its reader.
"""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tests.pipelines.sources.fuzz import FORMATS

SECS = float(os.environ.get("FUZZ_SECS", "1"))
SEED = os.environ.get("FUZZ_SEED", "0")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not tell a process's peak")
def test_nothing_but_samples_and_rejects_comes_out(name, tmp_path):
    command = [sys.executable, "-m", "tests.pipelines.sources.fuzz", name, str(SECS), SEED, str(tmp_path)]
    root = pathlib.Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    print(done.stdout, end="")
    if done.returncode:
        kept = shutil.copytree(tmp_path / "case", root / "out" / f"fuzz-{name}", dirs_exist_ok=True)
        pytest.fail(f"exit {done.returncode}; the case is kept in {kept}\n{done.stderr[-3000:]}")
